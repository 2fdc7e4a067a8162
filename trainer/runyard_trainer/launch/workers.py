"""The worker processes of a pod: started together, watched by one loop, reaped with whatever else ends in the pod.

One loop waits for three things: a worker's output, a signal, and the next deadline. Output goes to stdout line by line
with the rank before it, and the last lines of each worker are kept. Orphans, whose parent PID 1 becomes, are reaped as
well. When one worker fails, the others get some seconds to notice by themselves and end: SIGTERM would tell them to
save. A stop request is passed on once.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

TAIL_LINES = 30
_MAX_LINE_BYTES = 64 << 10
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM, SIGINT and SIGCHLD as a file descriptor to wait for; while it is open they do nothing else.

    Main thread only.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._handled = (*_STOP_SIGNALS, signal.SIGCHLD)

    def __enter__(self) -> Signals:
        self._previous = {number: signal.signal(number, lambda *_: None) for number in self._handled}
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._receiver.close()
        self._sender.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return self._receiver.fileno()

    def take_stop(self) -> signal.Signals | None:
        """Return the first stop signal that has come since the last call; None if none has."""
        try:
            numbers = self._receiver.recv(4096)
        except BlockingIOError:
            return None
        return next((signal.Signals(number) for number in numbers if number in _STOP_SIGNALS), None)

    def wait_for_stop(self, timeout_s: float) -> signal.Signals | None:
        """Wait for a stop signal; None if none comes within the time."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while (left_s := deadline - time.monotonic()) > 0:
                if selector.select(left_s) and (stop := self.take_stop()):
                    return stop
        return None


@dataclass
class Worker:
    """The process of one rank."""

    rank: int
    pid: int
    output: int | None
    """Our end of the pipe that it writes to; None once closed."""
    exit_code: int | None = None
    """128 + n if signal n ended it; None while it runs."""
    was_killed: bool = False
    """Whether the launcher killed it."""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    """Its last lines."""
    partial: bytes = b""
    """Output after the last line break."""


def start_worker(rank: int, command: Sequence[str], env: Mapping[str, str]) -> Worker:
    """Start a process whose stdout and stderr are a pipe to the launcher."""
    output, its_end = os.pipe()
    os.set_blocking(output, False)
    actions = [(os.POSIX_SPAWN_DUP2, its_end, 1), (os.POSIX_SPAWN_DUP2, its_end, 2)]
    try:
        pid = os.posix_spawn(command[0], tuple(command), env, file_actions=actions)
    finally:
        os.close(its_end)
    return Worker(rank, pid, output)


class Workers:
    """The workers of this pod, from their start until all have ended.

    Args:
        signals: to wait for; open.
        peers_grace_s: seconds that the others have to end by themselves after the first failure.
        stop_grace_s: seconds that all have to end after a stop request.
    """

    def __init__(self, signals: Signals, *, peers_grace_s: float, stop_grace_s: float) -> None:
        self._signals = signals
        self._peers_grace_s = peers_grace_s
        self._stop_grace_s = stop_grace_s
        self._selector = selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)
        self._deadline = float("inf")
        self.workers: list[Worker] = []
        self.ended: list[Worker] = []
        """In the order in which they ended."""
        self.stop: signal.Signals | None = None
        """The stop request that was passed on."""

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_rest()
        while self._running:
            self._wait_once(0.1)
        for worker in self.workers:
            self._close(worker)
        self._selector.close()

    def start(self, rank: int, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Start the worker of one more rank."""
        worker = start_worker(rank, command, env)
        self.workers.append(worker)
        assert worker.output is not None, "just opened"
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def wait(self) -> None:
        """Wait until all have ended; kill the rest when the time after a failure or a stop request is over."""
        while self._running:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                self._kill_rest()
            self._wait_once(None if left_s == float("inf") else max(left_s, 0.1))
        for worker in self.workers:
            self._forward(worker)
            self._close(worker)

    @property
    def _running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.exit_code is None]

    def _wait_once(self, timeout_s: float | None) -> None:
        for key, _ in self._selector.select(timeout_s):
            if key.data is not None:
                self._forward(key.data)
        if stop := self._signals.take_stop():
            self._pass_on(stop)
        self._reap()

    def _pass_on(self, stop: signal.Signals) -> None:
        if self.stop is not None:
            return
        self.stop = stop
        self._end_within(self._stop_grace_s)
        for worker in self._running:
            os.kill(worker.pid, signal.SIGTERM)

    def _reap(self) -> None:
        """Collect every child that has ended, workers and orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self.workers:
                if worker.pid == pid:
                    self._note_end(worker, os.waitstatus_to_exitcode(status))

    def _note_end(self, worker: Worker, exit_code: int) -> None:
        worker.exit_code = 128 - exit_code if exit_code < 0 else exit_code
        self.ended.append(worker)
        if worker.exit_code != 0:
            self._end_within(self._peers_grace_s)

    def _end_within(self, grace_s: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + grace_s)

    def _kill_rest(self) -> None:
        for worker in self._running:
            worker.was_killed = True
            os.kill(worker.pid, signal.SIGKILL)

    def _forward(self, worker: Worker) -> None:
        """Print the whole lines that have come."""
        if worker.output is None:
            return
        while data := _read_available(worker.output):
            *lines, worker.partial = (worker.partial + data).split(b"\n")
            for line in lines:
                self._emit(worker, line)
            if len(worker.partial) > _MAX_LINE_BYTES:
                self._emit(worker, worker.partial)
                worker.partial = b""
        if data is not None:
            self._close(worker)

    def _close(self, worker: Worker) -> None:
        """Print what is left and stop reading. Only processes that the worker has left behind could still write."""
        if worker.output is None:
            return
        if worker.partial:
            self._emit(worker, worker.partial)
        self._selector.unregister(worker.output)
        os.close(worker.output)
        worker.output = None

    def _emit(self, worker: Worker, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip("\r")
        worker.tail.append(text)
        _write_whole(sys.stdout.fileno(), f"[rank {worker.rank}] {text}\n".encode())


def _read_available(descriptor: int) -> bytes | None:
    """Read what is in the pipe; empty at its end, None where nothing has come yet."""
    try:
        return os.read(descriptor, _MAX_LINE_BYTES)
    except BlockingIOError:
        return None


def _write_whole(descriptor: int, data: bytes) -> None:
    """Write all of `data`. `print` to an unbuffered stdout loses what is left of a write that a signal cut short."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
