"""A checkpointer in a world of one: what is kept, what a slow, failing or full store and a newer attempt do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runyard_trainer.checkpoints.checkpointer import select_retained
from runyard_trainer.checkpoints.head import CheckpointEntry
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.contract.training import Checkpoint
from runyard_trainer.storage.base import Location, StorageUnavailable
from runyard_trainer.storage.open import open_store

from tests.unit.trainer.checkpoints.world_of_one import open_checkpointer


def entry(step: int) -> CheckpointEntry:
    return CheckpointEntry(step=step, manifest=f"checkpoints/step-{step:08d}-e1/manifest.json", sha256="", time="")


RETENTION: dict[str, tuple[list[int], int, int | None, list[int]]] = {
    "the last two": ([50, 40, 30, 20, 10], 2, None, [50, 40]),
    "the last one": ([50, 40, 30], 1, None, [50]),
    "the last two and each multiple": ([50, 40, 30, 20, 10], 2, 20, [50, 40, 20]),
    "the newest although it is no multiple": ([45, 40], 1, 20, [45, 40]),
    "all where there are fewer": ([10], 5, None, [10]),
}


@pytest.mark.parametrize("name", RETENTION)
def test_what_is_kept(name: str) -> None:
    steps, keep_last, keep_every_steps, want = RETENTION[name]
    kept = select_retained(tuple(map(entry, steps)), Checkpoint(keep_last=keep_last, keep_every_steps=keep_every_steps))
    assert [each.step for each in kept] == want


@dataclass
class Watched:
    """A real store with a hook that is called with each file's key before it is uploaded."""

    store: Any
    before_upload: Callable[[str], None]
    uploaded: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def upload_file(self, key: str, path: Path) -> None:
        self.before_upload(key)
        self.store.upload_file(key, path)
        self.uploaded.append(key)


@pytest.fixture(autouse=True)
def world_of_one() -> Iterator[None]:
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not list what it exports
    if dist.is_initialized():
        dist.destroy_process_group()  # a library's trainer, that another test compares with, leaves one
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return open_store(f"file://{tmp_path}/output", Storage())


def state_of(value: float) -> dict[str, Any]:
    return {"weights": torch.full((3,), value), "rows": f"{value}\n"}


def restore(output: Location, tmp_path: Path, attempt: int) -> tuple[int | None, dict[str, Any]]:
    state = {"weights": torch.zeros(3), "rows": ""}
    return open_checkpointer(output, tmp_path, attempt).restore(state), state


def folders(output: Location) -> list[str]:
    keys = (info.key.removeprefix(f"{output.prefix}/checkpoints/") for info in (output / "checkpoints").list())
    return sorted({key.partition("/")[0] for key in keys})


def test_only_what_is_to_be_kept_stays_on_the_store(output: Location, tmp_path: Path) -> None:
    checkpointer = open_checkpointer(output, tmp_path, keep_last=2, keep_every_steps=2)
    for step in range(1, 7):
        checkpointer.save(step, state_of(step), tokens=step)
    checkpointer.wait()
    assert folders(output) == [f"step-{step:08d}-e1" for step in (2, 4, 5, 6)]
    assert restore(output, tmp_path, attempt=2)[0] == 6


def test_staging_and_the_restored_copy_leave_nothing_on_the_nodes_disk(output: Location, tmp_path: Path) -> None:
    checkpointer = open_checkpointer(output, tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    checkpointer.wait()
    restore(output, tmp_path, attempt=2)
    assert [path for path in tmp_path.glob("scratch-*/**/*") if path.is_file()] == []


def test_a_slow_store_does_not_hold_up_training_and_what_it_gets_is_the_state_as_it_was(
    output: Location, tmp_path: Path
) -> None:
    is_free = threading.Event()
    slow = Location(Watched(output.store, lambda _: assert_soon(is_free)), output.prefix)
    checkpointer = open_checkpointer(slow, tmp_path)
    state = state_of(1.0)
    checkpointer.save(1, state, tokens=1)
    state["weights"] += 1  # the next step, while nothing is uploaded yet
    assert checkpointer.is_busy
    assert checkpointer.committed is None
    is_free.set()
    checkpointer.wait()
    assert not checkpointer.is_busy
    step, restored = restore(output, tmp_path, attempt=2)
    assert (step, restored["weights"].tolist(), restored["rows"]) == (1, [1.0] * 3, "1.0\n")


def assert_soon(event: threading.Event) -> None:
    assert event.wait(30)


def test_a_save_that_is_not_through_in_time_is_an_interruption(output: Location, tmp_path: Path) -> None:
    is_free = threading.Event()
    slow = Location(Watched(output.store, lambda _: assert_soon(is_free)), output.prefix)
    checkpointer = open_checkpointer(slow, tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    with pytest.raises(Interrupted, match="not uploaded within 0 s"):
        checkpointer.wait(timeout_s=0.01)
    is_free.set()
    checkpointer.wait()


def test_a_store_that_does_not_answer_for_a_moment_only_delays_the_save(output: Location, tmp_path: Path) -> None:
    outages = [StorageUnavailable("503"), StorageUnavailable("503")]

    def fail_twice(_: str) -> None:
        if outages:
            raise outages.pop()

    checkpointer = open_checkpointer(Location(Watched(output.store, fail_twice), output.prefix), tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    checkpointer.wait()
    assert restore(output, tmp_path, attempt=2)[0] == 1


def test_an_error_of_the_thread_is_raised_by_the_next_call(output: Location, tmp_path: Path) -> None:
    def refuse(_: str) -> None:
        raise UserError("no right to write", ExitCode.STORAGE_ERROR)

    checkpointer = open_checkpointer(Location(Watched(output.store, refuse), output.prefix), tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    with pytest.raises(UserError, match="no right to write"):
        checkpointer.save(2, state_of(2.0), tokens=2)


def test_an_attempt_that_was_succeeded_meanwhile_stops_and_changes_nothing(output: Location, tmp_path: Path) -> None:
    old = open_checkpointer(output, tmp_path, attempt=1)
    old.save(1, state_of(1.0), tokens=1)
    old.wait()
    successor = open_checkpointer(output, tmp_path, attempt=2)
    successor.save(2, state_of(2.0), tokens=2)
    successor.wait()
    before = (output / "head.json").get()
    old.save(3, state_of(3.0), tokens=3)
    with pytest.raises(Interrupted, match="attempt 2"):
        old.wait()
    assert (output / "head.json").get() == before
    assert restore(output, tmp_path, attempt=3)[0] == 2


def test_what_an_older_attempt_has_left_half_uploaded_is_deleted_by_its_successor(
    output: Location, tmp_path: Path
) -> None:
    checkpointer = open_checkpointer(output, tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    checkpointer.wait()
    (output / "checkpoints" / "step-00000002-e1" / "__0_0.distcp").put(b"half")
    assert restore(output, tmp_path, attempt=2)[0] == 1
    assert folders(output) == ["step-00000001-e1"]


def test_a_step_that_is_committed_is_not_saved_again(output: Location, tmp_path: Path) -> None:
    watched = Watched(output.store, lambda _: None)
    checkpointer = open_checkpointer(Location(watched, output.prefix), tmp_path)
    for _ in range(2):
        checkpointer.save(1, state_of(1.0), tokens=1)
        checkpointer.wait()
    assert len(watched.uploaded) == len(set(watched.uploaded))


def test_training_goes_on_from_an_older_checkpoint_and_forgets_the_damaged_one(
    output: Location, tmp_path: Path
) -> None:
    first = open_checkpointer(output, tmp_path)
    for step in (1, 2):
        first.save(step, state_of(step), tokens=step)
    first.wait()
    (output / "checkpoints" / "step-00000002-e1" / ".metadata").put(b"damaged")
    second = open_checkpointer(output, tmp_path, attempt=2)
    assert second.restore(state_of(0)) == 1
    second.save(2, state_of(2), tokens=2)
    second.wait()
    assert folders(output) == ["step-00000001-e1", "step-00000002-e2"]


def test_a_file_that_is_damaged_on_its_way_is_read_again_and_its_checkpoint_not_passed_over(
    output: Location, tmp_path: Path
) -> None:
    checkpointer = open_checkpointer(output, tmp_path)
    for step in (1, 2):
        checkpointer.save(step, state_of(step), tokens=step)
    checkpointer.wait()
    noisy = Location(Noisy(output.store), output.prefix)
    assert restore(noisy, tmp_path, attempt=2)[0] == 2


@dataclass
class Noisy:
    """A real store on the way from which each file is damaged once."""

    store: Any
    read: set[str] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def download_file(self, key: str, path: Path) -> None:
        self.store.download_file(key, path)
        if key not in self.read:
            self.read.add(key)
            path.write_bytes(b"?" + path.read_bytes()[1:])


def test_a_run_none_of_whose_checkpoints_is_whole_does_not_start_over_by_itself(
    output: Location, tmp_path: Path
) -> None:
    checkpointer = open_checkpointer(output, tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    checkpointer.wait()
    (output / "checkpoints" / "step-00000001-e1" / ".metadata").put(b"damaged")
    with pytest.raises(UserError, match="none of the 1 checkpoints") as error:
        restore(output, tmp_path, attempt=2)
    assert error.value.code is ExitCode.DATA_ERROR


def test_a_store_that_does_not_answer_is_not_taken_for_damage(
    output: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runyard_trainer.storage.patient.PATIENCE_S", 0.0)
    checkpointer = open_checkpointer(output, tmp_path)
    checkpointer.save(1, state_of(1.0), tokens=1)
    checkpointer.wait()
    silent = Location(Silent(output.store), output.prefix)
    with pytest.raises(StorageUnavailable):
        restore(silent, tmp_path, attempt=2)


@dataclass
class Silent:
    """A real store that does not let files of checkpoints be read."""

    store: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def download_file(self, key: str, path: Path) -> None:
        raise StorageUnavailable("503")


FILL_THE_DISK = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.open import open_store
from tests.unit.trainer.checkpoints.world_of_one import open_checkpointer
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
tmp_path = Path({tmp_path!r})
checkpointer = open_checkpointer(open_store(f"file://{{tmp_path}}/output", Storage()), tmp_path)
checkpointer.save(1, {{"weights": torch.ones(1 << 20)}}, tokens=1)
try:
    checkpointer.wait()
except UserError as error:
    print(int(error.code), error)
"""


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    """On a real file system of one megabyte."""
    (tmp_path / "scratch-1").mkdir()
    script = FILL_THE_DISK.format(tests=os.getcwd(), tmp_path=str(tmp_path))
    mount = f'mount -t tmpfs -o size=1m none {tmp_path}/scratch-1 && exec "$0" -c "$1"'
    argv = ["unshare", "-Urm", "sh", "-c", mount, sys.executable, script]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert "1 the node's disk is too full to stage a checkpoint" in done.stdout, done.stdout + done.stderr
