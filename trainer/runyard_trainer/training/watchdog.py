"""Notice that training stalls, dump the stacks of all threads, and end the attempt.

    the loop names what it does (`watching`) ─> no beat for `stall_s` ─> this thread dumps the stacks of all threads
      ─> <output>/stacks/attempt-<n>/rank-<r>.txt ─> Notify: /progress says since when
                                                     Restart: wait for the others' dumps, then exit code STALLED

A rank that hangs makes all others hang in their next collective, so that each notices by itself, without asking another
rank. Only what has no timeout of its own is watched: a save that waits for a slow store is not.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.contract.times import format_past_time
from runyard_trainer.storage.base import Location, StorageUnavailable

UPLOAD_TIMEOUT_S = 30.0
"""Bound of the upload of the stacks: the store may be what everything waits for."""

PEERS_GRACE_S = 10.0
"""How long a rank waits for the others' dumps after its own: the others end soon after it does."""

_PEERS_POLL_S = 0.5

_log = logging.getLogger(__name__)


class Watchdog:
    """A thread that calls `on_stall(what, since)` once for each time that no beat comes for `stall_s`.

    Args:
        stall_s: seconds; 0: never.
        on_stall: takes what was being done, and since when, RFC 3339 UTC.
        on_recovery: called in the loop's thread when it goes on after a stall.
    """

    def __init__(
        self, stall_s: float, on_stall: Callable[[str, str], None], on_recovery: Callable[[], None] = lambda: None
    ) -> None:
        self._stall_s = stall_s
        self._on_stall = on_stall
        self._on_recovery = on_recovery
        self._what: str | None = None
        self._deadline = float("inf")
        self._has_stalled = False
        self._closed = threading.Event()
        if stall_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def watching(self, what: str) -> Iterator[None]:
        """Watch the body, which does `what`."""
        self._what = what
        self.beat()
        try:
            yield
        finally:
            self._what, self._deadline = None, float("inf")
            self._note_recovery()

    def beat(self) -> None:
        """Note that what is watched goes on; do nothing where nothing is watched."""
        if self._what is not None and self._stall_s:
            self._deadline = time.monotonic() + self._stall_s
        self._note_recovery()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _note_recovery(self) -> None:
        if self._has_stalled:
            self._has_stalled = False
            self._on_recovery()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._stall_s / 10)):
            if time.monotonic() < self._deadline:
                continue
            self._deadline, self._has_stalled = float("inf"), True
            since = format_past_time(datetime.fromtimestamp(time.time() - self._stall_s, UTC))
            self._on_stall(self._what or "training", since)


def stacks_location(output: Location, attempt: int) -> Location:
    """Return the folder of an attempt's dumps, a file for each rank."""
    return output / "stacks" / f"attempt-{attempt}"


def handle_stall(
    what: str,
    since: str,
    output: Location,
    context: RunContext,
    *,
    set_stalled: Callable[[str], None],
    end_process: Callable[[PodReport], None],
) -> None:
    """Store this rank's stacks, report since when it stalls, and on Restart end the process.

    Args:
        what: what was being done.
        since: when it began to stall, RFC 3339 UTC.
        output: where `output.uri` lies.
        context: which rank this is, and whether it restarts.
        set_stalled: takes `since`.
        end_process: ends this process with a report.
    """
    stacks = dump_stacks()
    folder = stacks_location(output, context.attempt)
    is_stored = _store(folder / f"rank-{context.world.rank}.txt", stacks)
    where = f"the stacks of every rank are below {folder.uri}/" if is_stored else "the stacks could not be stored"
    message = (
        f"{what} has not gone on for {context.stall_s:g} s (recovery.stallTimeoutSeconds). This rank is at "
        f"{locate_main_thread()}; {where}"
    )
    _log.error("%s%s", message, "" if is_stored else f"\n{stacks}")
    set_stalled(since)
    if context.restarts_on_stall:
        _wait_for_peers(folder, context.world.size)
        code = ExitCode.STALLED
        end_process(PodReport(reason=code.reason, message=message, exit_code=code))


def _wait_for_peers(folder: Location, num_ranks: int) -> None:
    deadline = time.monotonic() + PEERS_GRACE_S
    pause = threading.Event()
    while time.monotonic() < deadline:
        try:
            if len(folder.children()) >= num_ranks:
                return
        except (UserError, StorageUnavailable):
            pass  # then it is the time alone that counts
        pause.wait(_PEERS_POLL_S)


def locate_main_thread() -> str:
    """Return file, line and function of the main thread's innermost frame."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    folders = frame.f_code.co_filename.rsplit("/", 3)[-3:]
    return f"{'/'.join(folders)}:{frame.f_lineno} in {frame.f_code.co_name}"


def dump_stacks() -> str:
    """Return the stack of each Python thread of this process."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file)  # needs a real file: it writes to the descriptor
        file.seek(0)
        return file.read()


def _store(target: Location, text: str) -> bool:
    stored = threading.Event()

    def put() -> None:
        try:
            target.put(text.encode())
            stored.set()
        except (UserError, StorageUnavailable) as error:
            _log.error("%s: %s", target.uri, error)

    uploader = threading.Thread(target=put, name="stacks", daemon=True)
    uploader.start()
    uploader.join(UPLOAD_TIMEOUT_S)
    return stored.is_set()
