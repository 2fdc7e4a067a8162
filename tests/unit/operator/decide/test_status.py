"""Conditions, progress and Events: what a decision looks like to people and to kstatus."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import (
    Condition,
    ConditionType,
    LastFailure,
    Phase,
    QueuePlace,
    Restarts,
    RunProgress,
    TrainingRunStatus,
)
from runyard.decide.status import build_events, build_status, is_new, is_queued, learn_progress, may_hold_gpus
from runyard.decide.values import Decision, Event
from runyard_trainer.contract.exits import Reason
from runyard_trainer.contract.reports import CommittedCheckpoint
from runyard_trainer.contract.times import format_time

from tests.builders import NOW, at, make_progress

RUNNING = Decision(Phase.RUNNING, "Training", "attempt 1: training")


def show(decision: Decision, before: TrainingRunStatus | None = None, *, second: float = 0) -> TrainingRunStatus:
    return build_status(before or TrainingRunStatus(), decision, is_prepared=True, generation=4, now=at(second))


def conditions(status: TrainingRunStatus) -> dict[str, Condition]:
    return {condition.type: condition for condition in status.conditions}


KSTATUS = {
    "a run that is on its way is reconciling": (Decision(Phase.STARTING, "Starting", ""), ("False", "True", "False")),
    "a run that trains is ready": (RUNNING, ("True", "False", "False")),
    "a succeeded run is ready": (Decision(Phase.SUCCEEDED, "Completed", ""), ("True", "False", "False")),
    "a failed run is stalled": (Decision(Phase.FAILED, "DataError", ""), ("False", "False", "True")),
    "a suspended run is at rest": (Decision(Phase.SUSPENDED, "Suspended", ""), ("False", "False", "False")),
    "a run that someone must help is stalled": (
        Decision(Phase.PREPARING, "NameConflict", "", is_stalled=True),
        ("False", "False", "True"),
    ),
}


@pytest.mark.parametrize("name", KSTATUS)
def test_kstatus_reads_it_right(name: str) -> None:
    decision, want = KSTATUS[name]
    shown = conditions(show(decision))
    assert tuple(shown[kind].status for kind in ("Ready", "Reconciling", "Stalled")) == want


def test_a_conditions_time_moves_only_when_its_status_flips() -> None:
    first = show(RUNNING)
    exporting = show(Decision(Phase.RUNNING, "Exporting", "attempt 1: exporting"), first, second=60)
    assert conditions(exporting)["Running"].last_transition_time == format_time(NOW)
    assert conditions(exporting)["Running"].reason == "Exporting"
    done = show(Decision(Phase.SUCCEEDED, "Completed", "the model is there"), exporting, second=90)
    moved = {kind for kind, shown in conditions(done).items() if shown.last_transition_time == format_time(at(90))}
    assert moved == {"Admitted", "Running", "Succeeded"}


def test_every_condition_tells_the_generation_that_it_is_about() -> None:
    status = show(RUNNING)
    assert status.observed_generation == 4
    assert {condition.observed_generation for condition in status.conditions} == {4}
    assert [condition.type for condition in status.conditions] == list(ConditionType)


def test_speed_and_eta_vanish_while_nothing_trains_and_the_rest_of_progress_stays() -> None:
    progress = RunProgress(step=7, total_steps=9, loss="2.0", tokens_per_second=5, eta_seconds=8, eta="8s")
    before = TrainingRunStatus(progress=progress)
    assert show(RUNNING, before).progress == progress
    recovering = show(Decision(Phase.RECOVERING, "AttemptFailed", ""), before)
    assert recovering.progress == RunProgress(step=7, total_steps=9, loss="2.0")


def test_an_attempt_that_starts_again_hides_nothing_of_the_progress_so_far() -> None:
    before = TrainingRunStatus(attempt=2, progress=RunProgress(step=70, total_steps=90))
    assert learn_progress(before, make_progress(attempt=2, stage="starting", step=0)).progress == before.progress


def test_an_older_checkpoint_does_not_replace_a_newer_one_nor_refill_the_budget() -> None:
    newer, older = (CommittedCheckpoint(uri="u", step=step, time="t") for step in (50, 40))
    before = TrainingRunStatus(attempt=1, checkpoint=newer, restarts=Restarts(failures=2, failures_since_checkpoint=2))
    after = learn_progress(before, make_progress(checkpoint=older))
    assert (after.checkpoint, after.restarts) == (newer, before.restarts)


# --------------------------------------------------------------------------------------------------------------- Events


def test_each_change_of_phase_is_told_once() -> None:
    first = show(RUNNING)
    assert build_events(TrainingRunStatus(), first) == (Event("Normal", "Running", "attempt 1: training"),)
    assert build_events(first, show(RUNNING, first, second=5)) == ()


@pytest.mark.parametrize(
    ("restarts", "reason"), [(Restarts(failures=1), "AttemptFailed"), (Restarts(disruptions=1), "Disrupted")]
)
def test_an_attempts_end_is_told_with_where_how_and_what(restarts: Restarts, reason: str) -> None:
    failure = LastFailure(attempt=3, rank=5, node="gpu-7", exit_code=137, reason="OOMKilled", message="more memory")
    changes: dict[str, Any] = {"last_failure": failure, "restarts": restarts}
    after = show(Decision(Phase.RECOVERING, "AttemptFailed", "again", changes))
    told = build_events(show(RUNNING), after)
    message = "attempt 3, rank 5 on gpu-7 ended with OOMKilled, exit code 137: more memory"
    assert told == (Event("Warning", reason, message), Event("Normal", "Recovering", "again"))


def test_a_failed_run_is_told_as_a_warning() -> None:
    (event,) = build_events(show(RUNNING), show(Decision(Phase.FAILED, "DataError", "b.jsonl:3")))
    assert event == Event("Warning", "Failed", "b.jsonl:3")


# ---------------------------------------------------------------------------------------------------------------- times


def test_a_run_is_new_until_a_status_is_written() -> None:
    assert is_new(TrainingRunStatus())
    assert is_new(TrainingRunStatus(observed_generation=-1)), "as the CRD defaults it"
    assert not is_new(written(Phase.PENDING))


@pytest.mark.parametrize("phase", Phase)
def test_a_run_is_queued_only_while_that_is_its_phase(phase: Phase) -> None:
    assert is_queued(written(phase, queue=QueuePlace(message="needs 16"))) == (phase is Phase.QUEUED)


@pytest.mark.parametrize(
    ("phase", "reason", "fields", "may"),
    [
        (Phase.PREPARING, ConditionReason.PREPARING, {}, False),
        (Phase.QUEUED, ConditionReason.QUEUED, {}, False),
        (Phase.STARTING, ConditionReason.STARTING, {"attempt": 1}, True),
        (Phase.RUNNING, ConditionReason.TRAINING, {"attempt": 2, "ended_attempt": 1}, True),
        (Phase.RECOVERING, ConditionReason.DISRUPTED, {"attempt": 1, "ended_attempt": 1}, False),
        (Phase.SUSPENDING, ConditionReason.SUSPENDING, {"attempt": 1, "ended_attempt": 1}, True),
        (Phase.SUSPENDED, ConditionReason.SUSPENDED, {"attempt": 1, "ended_attempt": 1}, False),
        (Phase.SUCCEEDED, Reason.COMPLETED, {"attempt": 1, "ended_attempt": 1}, False),
    ],
)
def test_gpus_are_held_while_an_attempt_goes_on_or_saves(
    phase: Phase, reason: str, fields: dict[str, Any], may: bool
) -> None:
    assert may_hold_gpus(written(phase, reason, **fields)) == may


def written(phase: Phase, reason: str = "Because", **fields: Any) -> TrainingRunStatus:
    """The status that a decision writes."""
    decision = Decision(phase, reason, "")
    return build_status(TrainingRunStatus(**fields), decision, is_prepared=True, generation=1, now=NOW)
