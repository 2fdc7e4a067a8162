"""Save a run while it goes on, and restore it.

    save      the state is copied to the CPU (training waits for that only); then, in a thread of its own:
              DCP writes each rank's part to the node's disk ─> each rank uploads its files ─> ranks exchange lists of
              files ─> rank 0 uploads the manifest, swaps the head, deletes old checkpoints ─> all get the outcome
    restore   for each checkpoint of the head, newest first: check the manifest and every file that is needed by sha256
              before anything is read into the model; skip a checkpoint that is not whole

At most one save is under way. An error in its thread is raised by the next `save`, `check` or `wait`.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful

from runyard_trainer.checkpoints.files import (
    CHECKPOINTS_NAME,
    MANIFEST_NAME,
    CheckpointFolder,
    Corrupt,
    FileEntry,
    Manifest,
    PlainLoadPlanner,
    StagingWriter,
    VerifiedReader,
    folder_name,
    read_manifest,
    upload_file,
)
from runyard_trainer.checkpoints.head import CheckpointEntry, Head
from runyard_trainer.context import World
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.reports import CommittedCheckpoint
from runyard_trainer.contract.times import format_past_time
from runyard_trainer.contract.training import Checkpoint
from runyard_trainer.ranks.agreement import Agreement
from runyard_trainer.storage.base import Location, StorageUnavailable
from runyard_trainer.storage.patient import be_patient

PEER_TIMEOUT_S = 1800.0
"""How long a rank waits for the slowest upload. A rank that is dead is noticed at once."""

T = TypeVar("T")
State = dict[str, Any]
"""By name: tensors, plain values, nested dicts of them, or a `Stateful`. DTensors are saved by their parts, anything
else as rank 0 has it. A list whose length changes must be one value (a string, say): DCP looks each element up by its
index.
"""

_log = logging.getLogger(__name__)


def select_retained(
    entries: tuple[CheckpointEntry, ...], retention: Checkpoint, best_step: int | None = None
) -> tuple[CheckpointEntry, ...]:
    """Select the checkpoints to keep: the newest ones, those whose step is a multiple, the best. Newest come first."""
    every = retention.keep_every_steps
    return tuple(
        entry
        for place, entry in enumerate(entries)
        if place < retention.keep_last or (every and entry.step % every == 0) or entry.step == best_step
    )


class Checkpointer:
    """Saves and restores a run's state. All ranks call its methods alike; only the properties are each rank's own.

    Args:
        output: where `output.uri` lies.
        head: rank 0's claimed head, of a patient store; None on the other ranks.
        world: which rank this is.
        scratch_dir: folder on the node's disk that its ranks share, with room for this node's part of a checkpoint.
        retention: which checkpoints to keep.
    """

    def __init__(
        self,
        output: Location,
        head: Head | None,
        world: World,
        scratch_dir: Path,
        retention: Checkpoint,
    ) -> None:
        assert (head is not None) == (world.rank == 0)
        self._output = be_patient(output)
        self._head = head
        self._world = world
        self._scratch_dir = scratch_dir
        self._retention = retention
        self._agreement = Agreement(PEER_TIMEOUT_S)
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        self._epoch, self._entries = self._agreement.from_rank_0(self._read_head)
        self._best_step: int | None = None
        self._pending: Future[CheckpointEntry] | None = None
        self._staging_dir = scratch_dir / f"staging-{world.rank}"
        shutil.rmtree(self._staging_dir, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------------------ state

    @property
    def committed(self) -> CommittedCheckpoint | None:
        """The newest checkpoint that this rank has seen committed."""
        if not self._entries:
            return None
        newest = self._entries[0]
        return CommittedCheckpoint(uri=str((self._output / newest.manifest).parent), step=newest.step, time=newest.time)

    @property
    def is_busy(self) -> bool:
        """Whether a save is under way on this rank.

        Ranks may differ for a moment: before they skip a save because of it, they must agree, or only some would save.
        """
        return self._pending is not None and not self._pending.done()

    # ------------------------------------------------------------------------------------------------------------- save

    def save(self, step: int, state: State, tokens: int, best_step: int | None = None) -> None:
        """Begin to save; return once the state is copied. Wait for the save before first, and raise what it raised.

        A step that is committed already is not saved again. The checkpoint of `best_step` is kept.
        """
        self.wait()
        self._best_step = best_step
        if self._entries and self._entries[0].step == step:
            return
        staged = self._stager.stage(_to_state_dicts(state))
        assert isinstance(staged, dict)
        self._pending = _start(lambda: self._save(step, staged, tokens), name=f"checkpoint-{step}")

    def check(self) -> None:
        """Raise what went wrong with the last save, if it is done; never wait.

        Raises:
            Interrupted: a newer attempt has taken over, or a peer is gone.
            StorageUnavailable: the store has not answered for too long.
            UserError: the store refuses, or the node's disk is full.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the save under way. Raise as `check` does, and Interrupted after `timeout_s`."""
        if self._pending is None:
            return
        try:
            entry = self._pending.result(timeout_s)
        except FutureTimeoutError:
            raise Interrupted(f"the checkpoint was not uploaded within {timeout_s:.0f} s") from None
        self._pending = None
        self._entries = self._retained(entry)

    def _save(self, step: int, staged: State, tokens: int) -> CheckpointEntry:
        started = time.monotonic()
        remote = self._output / CHECKPOINTS_NAME / folder_name(step, self._epoch)
        try:
            self._write_staged(staged)
            files = self._agreement.gather(lambda: self._upload_staged(remote))
        finally:
            shutil.rmtree(self._staging_dir, ignore_errors=True)
        manifest = Manifest(
            step=step,
            epoch=self._epoch,
            world_size=self._world.size,
            tokens=tokens,
            files=tuple(entry for entries in files for entry in entries),
        )
        entry = self._agreement.from_rank_0(lambda: self._commit(manifest, remote))
        num_bytes = sum(file.bytes for file in manifest.files)
        _log.info(
            "checkpoint of step %d: %.1f MB committed in %.1f s", step, num_bytes / 1e6, time.monotonic() - started
        )
        return entry

    def _write_staged(self, staged: State) -> None:
        writer = StagingWriter(self._staging_dir, sync_files=False, per_thread_copy_ahead=0)
        # the lowest rank's value is kept of what all have: rank 0's metrics rows, not some rank's empty ones
        planner = DefaultSavePlanner(dedup_save_to_lowest_rank=True)
        with _plain_errors():
            save(
                staged,
                storage_writer=writer,
                planner=planner,
                process_group=self._agreement.group,
            )

    def _upload_staged(self, remote: Location) -> list[FileEntry]:
        return [upload_file(path, remote) for path in sorted(self._staging_dir.iterdir())]

    def _commit(self, manifest: Manifest, remote: Location) -> CheckpointEntry:
        assert self._head is not None
        data = manifest.to_json().encode()
        location = remote / MANIFEST_NAME
        location.put(data)
        entry = CheckpointEntry(
            step=manifest.step,
            manifest=f"{CHECKPOINTS_NAME}/{remote.name}/{MANIFEST_NAME}",
            sha256=hashlib.sha256(data).hexdigest(),
            time=format_past_time(datetime.now(UTC)),
        )
        self._head.commit(entry, self._retained(entry)[1:])
        self._delete_unreferenced()
        return entry

    def _retained(self, newest: CheckpointEntry) -> tuple[CheckpointEntry, ...]:
        return select_retained((newest, *self._entries), self._retention, self._best_step)

    def _delete_unreferenced(self) -> None:
        """Delete what the head does not name: old checkpoints, and half uploaded ones of older attempts.

        An older attempt that still uploads loses nothing: the head would refuse its commit.
        """
        assert self._head is not None
        kept = {entry.manifest.rpartition("/")[0] for entry in self._head.state.entries}
        folders = self._output / CHECKPOINTS_NAME
        try:
            for found in folders.list():
                name = found.key.removeprefix(f"{folders.prefix}/").partition("/")[0]
                if f"{CHECKPOINTS_NAME}/{name}" not in kept:
                    folders.store.delete(found.key)
        except StorageUnavailable as error:
            _log.warning("old checkpoints stay for now: %s", error)

    # ---------------------------------------------------------------------------------------------------------- restore

    def restore(self, state: State) -> int | None:
        """Load the newest whole checkpoint into `state`, in place.

        Returns:
            The step it holds, the same on every rank; None where nothing was ever committed.

        Raises:
            UserError: DATA_ERROR: there are checkpoints, and none is whole.
            StorageUnavailable: the store does not answer, so that it is unknown whether they are whole.
        """
        for place, entry in enumerate(self._entries):
            try:
                self._load(entry, state)
            except Corrupt as reason:
                _log.warning("the checkpoint of step %d is passed over: %s", entry.step, reason)
                continue
            _log.info("continuing from the checkpoint of step %d", entry.step)
            self._entries = self._entries[place:]
            self._agreement.from_rank_0(self._delete_unreferenced)
            return entry.step
        if self._entries:
            raise UserError(
                f"none of the {len(self._entries)} checkpoints of {self._output} is whole. Restore their files, or "
                "start over with another output",
                ExitCode.DATA_ERROR,
            )
        return None

    def restore_step(self, step: int, state: State) -> None:
        """Load the parts that `state` names from the checkpoint of one step, in place.

        Raises:
            UserError: DATA_ERROR: it is not there, or not whole.
        """
        try:
            self._load(self._entry_of(step), state)
        except Corrupt as reason:
            raise UserError(
                f"the checkpoint of step {step} at {self._output}, which was to be exported, is not whole: {reason}. "
                "Restore its files, or start over with another output",
                ExitCode.DATA_ERROR,
            ) from reason

    def _entry_of(self, step: int) -> CheckpointEntry:
        for entry in self._entries:
            if entry.step == step:
                return entry
        raise Corrupt("head.json does not name it")

    def _load(self, entry: CheckpointEntry, state: State) -> None:
        manifest = self._agreement.from_rank_0(lambda: read_manifest(self._output, entry))
        remote = (self._output / entry.manifest).parent
        folder = CheckpointFolder(remote, manifest, self._scratch_dir / "restore" / remote.name)
        reader = VerifiedReader(folder)
        try:
            self._agreement.gather(reader.read_metadata)
            with _plain_errors():
                load(
                    state,
                    storage_reader=reader,
                    planner=PlainLoadPlanner(),
                    process_group=self._agreement.group,
                )
        finally:
            folder.remove_local()

    def _read_head(self) -> tuple[int, tuple[CheckpointEntry, ...]]:
        assert self._head is not None
        return self._head.epoch, self._head.state.entries


def _to_state_dicts(state: State) -> State:
    return {name: part.state_dict() if isinstance(part, Stateful) else part for name, part in state.items()}


def _start(work: Callable[[], T], name: str) -> Future[T]:
    """Run in a daemon thread, which keeps no process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the failure of the lowest rank: DCP raises those of all ranks, on every rank."""
    try:
        yield
    except CheckpointException as failed:
        raise failed.failures[min(failed.failures)][0] from None
