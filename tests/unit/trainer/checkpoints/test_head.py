"""head.json: claims, commits and the fence between attempts, on a real S3 server and in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.checkpoints.head import CheckpointEntry, Head
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.reports import Result
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.base import Location, PreconditionFailed
from runyard_trainer.storage.open import open_store

from tests.s3server import S3Server

UID = "9f5c-run"
RESULT = Result(uri="s3://bucket/model", report="s3://bucket/report.html", digest="sha256:00")


def entry(step: int) -> CheckpointEntry:
    return CheckpointEntry(
        step=step, manifest=f"checkpoints/step-{step:08d}-e1/manifest.json", sha256="ab", time="2026-01-01T00:00:00Z"
    )


@pytest.fixture(params=["s3", "folder"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "folder":
        return open_store(f"file://{tmp_path}/output", Storage())
    server: S3Server = request.getfixturevalue("s3")
    return open_store(f"s3://{server.make_bucket()}/runs/one", server.storage)


def test_the_first_claim_begins_with_epoch_1_and_no_checkpoint(output: Location) -> None:
    head = Head.claim(output, UID, attempt=1)
    assert (head.epoch, head.checkpoint, head.result) == (1, None, None)


def test_a_later_attempt_finds_what_was_committed_and_raises_the_epoch(output: Location) -> None:
    first = Head.claim(output, UID, attempt=1)
    first.commit(entry(1))
    first.commit(entry(2), previous=(entry(1),))
    second = Head.claim(output, UID, attempt=2)
    assert second.epoch == 2
    assert second.state.entries == (entry(2), entry(1))


def test_the_same_attempt_may_claim_again_as_a_run_alone_does(output: Location) -> None:
    Head.claim(output, UID, attempt=1)
    assert Head.claim(output, UID, attempt=1).epoch == 2


CHANGES: dict[str, Callable[[Head], None]] = {
    "commit a checkpoint": lambda head: head.commit(entry(9)),
    "finish the run": lambda head: head.finish(RESULT),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_old_attempt_that_comes_back_cannot(output: Location, change: str) -> None:
    old = Head.claim(output, UID, attempt=1)
    old.commit(entry(1))
    successor = Head.claim(output, UID, attempt=2)
    successor.commit(entry(2), previous=(entry(1),))
    before = (output / "head.json").get()
    with pytest.raises(Interrupted, match="attempt 2 of run"):
        CHANGES[change](old)
    assert (output / "head.json").get() == before


def test_an_old_attempt_that_comes_back_cannot_claim(output: Location) -> None:
    Head.claim(output, UID, attempt=2)
    with pytest.raises(Interrupted, match="attempt 2 has taken over from attempt 1"):
        Head.claim(output, UID, attempt=1)


def test_racing_claims_have_one_winner_per_epoch_and_the_newest_attempt_last(output: Location) -> None:
    num_attempts = 8
    together = threading.Barrier(num_attempts)

    def claim(attempt: int) -> Head | None:
        together.wait()
        try:
            return Head.claim(output, UID, attempt)
        except Interrupted:
            return None

    with ThreadPoolExecutor(num_attempts) as pool:
        heads = [head for head in pool.map(claim, range(1, num_attempts + 1)) if head is not None]
    epochs = [head.epoch for head in heads]
    assert sorted(epochs) == list(range(1, len(heads) + 1))
    in_force = [head for head in heads if can_commit(head)]
    assert [head.state.attempt for head in in_force] == [num_attempts]


def can_commit(head: Head) -> bool:
    try:
        head.commit(entry(head.epoch))
    except Interrupted:
        return False
    return True


def test_a_finished_run_says_so_to_whoever_claims_it(output: Location) -> None:
    Head.claim(output, UID, attempt=1).finish(RESULT)
    assert Head.claim(output, UID, attempt=2).result == RESULT


def test_a_deleted_head_stops_the_attempt(output: Location) -> None:
    head = Head.claim(output, UID, attempt=1)
    (output / "head.json").delete()
    with pytest.raises(Interrupted, match="it is gone"):
        head.commit(entry(1))


def test_another_runs_output_is_refused(output: Location) -> None:
    Head.claim(output, "other-run", attempt=7)
    with pytest.raises(UserError, match=r"output\.uri.*other-run.*takeOver") as error:
        Head.claim(output, UID, attempt=1)
    assert error.value.code is ExitCode.OUTPUT_TAKEN


def test_taking_over_keeps_the_checkpoints_and_drops_the_result(output: Location) -> None:
    other = Head.claim(output, "other-run", attempt=7)
    other.commit(entry(3))
    other.finish(RESULT)
    head = Head.claim(output, UID, attempt=1, take_over=True)
    assert (head.epoch, head.checkpoint, head.result) == (2, entry(3), None)


def test_a_head_that_is_no_json_is_a_data_error_that_names_it(output: Location) -> None:
    (output / "head.json").put(b"{")
    with pytest.raises(UserError, match=r"head\.json is not what") as error:
        Head.claim(output, UID, attempt=1)
    assert error.value.code is ExitCode.DATA_ERROR


def test_without_fencing_an_attempt_that_sees_its_successor_stops(output: Location) -> None:
    old = Head.claim(output, UID, attempt=1, fencing="none")
    old.commit(entry(1))
    Head.claim(output, UID, attempt=2, fencing="none")
    with pytest.raises(Interrupted):
        old.commit(entry(2))


@dataclass
class LossyStore:
    """A real store whose next answers to writes are lost: the client repeats the request, which then is refused."""

    store: Any
    num_lost: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        etag: str = self.store.put(key, data, **conditions)
        if self.num_lost:
            self.num_lost -= 1
            raise PreconditionFailed(key)
        return etag


def test_a_commit_whose_answer_was_lost_is_known_to_have_landed(output: Location) -> None:
    store = LossyStore(output.store)
    head = Head.claim(Location(store, output.prefix), UID, attempt=1)
    store.num_lost = 1
    head.commit(entry(1))
    head.commit(entry(2), previous=(entry(1),))
    assert Head.claim(output, UID, attempt=2).state.entries == (entry(2), entry(1))


def test_a_claim_whose_answer_was_lost_is_made_again(output: Location) -> None:
    head = Head.claim(Location(LossyStore(output.store, num_lost=1), output.prefix), UID, attempt=1)
    head.commit(entry(1))
    assert Head.claim(output, UID, attempt=1).epoch == 3
