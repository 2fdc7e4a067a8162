"""The rule table by example: a run and what is seen of it, and what the plan makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, Phase, Restarts
from runyard.decide.values import Delete, Manifest, Run
from runyard_trainer.contract.reports import CommittedCheckpoint, PodReport, Result
from runyard_trainer.contract.times import format_time

from tests.builders import (
    at,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_prepare_job,
    make_progress,
    make_run,
    make_spec,
    make_status,
    make_train_job,
    make_waiting_pod,
    prepared_status,
    recovering_status,
    with_condition,
    with_spec_error,
)
from tests.unit.operator.decisions import (
    attempt_run,
    condition,
    created,
    decide,
    deleted,
    holding,
    message_of,
)

# ------------------------------------------------------------------------------------------------------------- attempts


def test_a_live_attempt_is_left_alone() -> None:
    job = make_train_job()
    planned = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)])
    assert (planned.actions, planned.status.phase) == ((), Phase.STARTING)
    assert message_of(planned) == "attempt 1: 2 of 2 pods run"


def test_an_attempt_whose_status_write_was_lost_is_found_by_its_job() -> None:
    job = make_train_job(3)
    planned = decide(make_run(prepared_status(attempt=2, ended_attempt=2)), jobs=[job], pods=[make_pod(job)])
    assert (planned.actions, planned.status.attempt) == ((), 3)


@pytest.mark.parametrize(
    ("stage", "phase", "reason"),
    [
        ("starting", Phase.STARTING, "Starting"),
        ("evaluating", Phase.RUNNING, "Evaluating"),
        ("training", Phase.RUNNING, "Training"),
        ("exporting", Phase.RUNNING, "Exporting"),
        ("finished", Phase.RUNNING, "Exporting"),
    ],
)
def test_what_rank_0_is_doing_shows_in_the_reason(stage: str, phase: Phase, reason: str) -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_pod(job)], progress=make_progress(stage=stage))
    assert (planned.status.phase, condition(planned, ConditionType.READY).reason) == (phase, reason)


def test_progress_is_shown_for_people_and_its_checkpoint_kept() -> None:
    job = make_train_job()
    checkpoint = CommittedCheckpoint(uri="s3://models/fin/checkpoints/step-8", step=8, time="t")
    progress = make_progress(
        loss=2.13389,
        eta_seconds=5520,
        tokens_per_second=61000.4,
        tokens=640,
        checkpoint=checkpoint,
        resolved={"a": "1"},
    )
    planned = decide(attempt_run(), jobs=[job], pods=[make_pod(job)], progress=progress)
    shown = planned.status.progress
    assert shown is not None
    assert (shown.step, shown.total_steps, shown.tokens) == (10, 100, 640)
    assert (shown.loss, shown.eta, shown.tokens_per_second) == ("2.134", "1h 32m", 61000)
    assert (planned.status.checkpoint, planned.status.resolved) == (checkpoint, {"a": "1"})


def test_progress_of_an_older_attempt_says_nothing() -> None:
    job = make_train_job(2)
    run = make_run(prepared_status(attempt=2, ended_attempt=1))
    planned = decide(run, jobs=[job], pods=[make_pod(job)], progress=make_progress(attempt=1))
    assert (planned.status.progress, planned.status.phase) == (None, Phase.STARTING)


def test_a_running_attempt_that_does_not_answer_for_once_stays_running() -> None:
    job = make_train_job()
    run = make_run(make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1, phase=Phase.RUNNING))
    assert decide(run, jobs=[job], pods=[make_pod(job)]).status.phase is Phase.RUNNING


def test_an_attempt_whose_pods_all_ended_with_0_is_the_end() -> None:
    job = make_train_job(1, "Complete")
    result = Result(uri="s3://models/fin/model/", report="s3://models/fin/report.html", digest="sha256:1")
    report = PodReport(reason="Completed", result=result, progress=make_progress(stage="finished", step=100))
    pods = [make_dead_pod(job, 0, code=0, report=report), make_dead_pod(job, 1, code=0)]
    planned = decide(attempt_run(), jobs=[job], pods=pods)
    assert (planned.status.phase, holding(planned)) == (Phase.SUCCEEDED, {"Ready", "Prepared", "Succeeded"})
    assert (planned.status.result, planned.requeue_at, planned.actions) == (result, None, ())
    assert planned.status.progress is not None
    assert planned.status.progress.step == 100
    assert message_of(planned) == "the model is at s3://models/fin/model/"


@pytest.mark.parametrize("message", ["", "no JSON", '{"reason": 7}'])
def test_a_success_whose_report_is_unreadable_is_a_success(message: str) -> None:
    job = make_train_job(1, "Complete")
    pod = make_dead_pod(job, code=0)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = message
    planned = decide(attempt_run(), jobs=[job], pods=[pod])
    assert (planned.status.phase, planned.status.result) == (Phase.SUCCEEDED, None)


# ------------------------------------------------------------------------------------------------------------- suspend


def test_suspending_settles_the_attempt_before_its_job_is_deleted_and_costs_no_budget() -> None:
    job = make_train_job()
    pods = [make_pod(job, 0), make_pod(job, 1)]
    told = decide(replace(attempt_run(), spec=make_spec(suspend=True)), jobs=[job], pods=pods)
    assert (told.actions, told.status.phase, told.status.ended_attempt) == ((), Phase.SUSPENDING, 1)
    stopping = decide(make_run(told.status, suspend=True), jobs=[job], pods=pods)
    assert deleted(stopping) == ["cpt-a1"]
    assert (stopping.status.phase, stopping.status.restarts) == (Phase.SUSPENDING, Restarts())


def test_a_run_is_suspended_when_its_pods_are_gone_and_not_before() -> None:
    job = make_train_job()
    status = prepared_status(phase=Phase.SUSPENDING, attempt=1, ended_attempt=1)
    saving = decide(make_run(status, suspend=True), pods=[make_pod(job, **being_deleted(-1))])
    assert saving.status.phase is Phase.SUSPENDING
    gone = decide(make_run(status, suspend=True))
    assert (gone.status.phase, holding(gone)) == (Phase.SUSPENDED, {"Prepared", "Suspended"})
    assert (gone.actions, gone.status.restarts) == ((), Restarts())


def test_a_resumed_run_goes_on_with_the_next_attempt_once_the_old_one_has_saved() -> None:
    job = make_train_job()
    status = prepared_status(phase=Phase.SUSPENDED, attempt=1, ended_attempt=1)
    saving = decide(make_run(status), pods=[make_pod(job, **being_deleted(-1))])
    assert (saving.actions, saving.status.phase) == ((), Phase.SUSPENDING)
    assert created(decide(make_run(status))) == ["cpt-a2"]


def test_suspending_while_preparing_deletes_the_prepare_job() -> None:
    job = make_prepare_job()
    planned = decide(make_run(suspend=True), jobs=[job], pods=[make_pod(job)])
    assert (deleted(planned), planned.status.phase) == (["cpt-prepare"], Phase.SUSPENDING)


def test_a_run_created_suspended_creates_nothing() -> None:
    planned = decide(make_run(suspend=True))
    assert (planned.actions, planned.status.phase) == ((), Phase.SUSPENDED)


# ------------------------------------------------------------------------------------------------------ what stands by


@pytest.mark.parametrize(("kind", "phase"), [("Succeeded", Phase.SUCCEEDED), ("Failed", Phase.FAILED)])
def test_a_finished_run_stays_as_it_is_whatever_is_seen(kind: str, phase: Phase) -> None:
    status = make_status(ConditionType(kind), ConditionType.PREPARED, phase=phase, attempt=1, ended_attempt=1)
    first = decide(make_run(status))
    job = make_train_job()
    for observed in ({}, {"jobs": [job], "pods": [make_dead_pod(job, code=1)]}, {"conflicts": ("Job/cpt-a2",)}):
        planned = decide(make_run(first.status, suspend=True), **observed)
        assert (planned.status, planned.actions, planned.events) == (first.status, (), ())


@pytest.mark.parametrize("kind", ["Succeeded", "Failed"])
def test_a_finished_run_is_deleted_when_its_ttl_is_over_and_not_before(kind: str) -> None:
    status = make_status(ConditionType(kind), attempt=1, ended_attempt=1)  # since a minute ago
    waiting = decide(make_run(status, ttlSecondsAfterFinished=61))
    assert (waiting.actions, waiting.requeue_at) == ((), at(1))
    over = decide(make_run(status, ttlSecondsAfterFinished=60))
    assert over.actions == (Delete("TrainingRun", "cpt", "uid-1", "7"),)
    assert decide(make_run(status)).actions == ()


UNFINISHED: dict[str, Run] = {
    "new": make_run(),
    "prepared": make_run(prepared_status()),
    "recovering": make_run(recovering_status(next_attempt_time=format_time(at(30)))),
    "starting": make_run(prepared_status(phase=Phase.STARTING, attempt=1)),
    "running": make_run(make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1)),
    "suspending": make_run(prepared_status(phase=Phase.SUSPENDING, attempt=1, ended_attempt=1)),
    "suspended": make_run(make_status(ConditionType.PREPARED, ConditionType.SUSPENDED, attempt=1, ended_attempt=1)),
}


@pytest.mark.parametrize("phase", UNFINISHED)
def test_a_run_that_is_not_finished_has_no_ttl(phase: str) -> None:
    run = replace(UNFINISHED[phase], spec=make_spec(ttlSecondsAfterFinished=0))
    planned = decide(run, now=at(9000))
    assert [name for name in deleted(planned) if name == "cpt"] == []


@pytest.mark.parametrize("phase", UNFINISHED)
def test_a_run_that_is_suspended_in_any_phase_comes_to_rest_and_goes_on_when_it_is_resumed(phase: str) -> None:
    run = UNFINISHED[phase]
    for _ in range(2):
        run = replace(run, spec=make_spec(suspend=True))
        run = replace(run, status=decide(run).status)
    assert run.status.phase is Phase.SUSPENDED
    resumed = decide(replace(run, spec=make_spec()), now=at(30))
    assert created(resumed) == ["cpt-prepare" if phase == "new" else f"cpt-a{run.status.attempt + 1}"]


def test_a_finished_runs_attempt_that_would_go_on_is_stopped() -> None:
    status = make_status(ConditionType.FAILED, phase=Phase.FAILED, attempt=1, ended_attempt=1)
    job = make_train_job()
    assert deleted(decide(make_run(status), jobs=[job], pods=[make_pod(job)])) == ["cpt-a1"]


def test_a_stored_spec_that_cannot_be_read_fails_the_run_and_creates_nothing() -> None:
    planned = decide(with_spec_error(make_run(), "spec.training.steps: must be positive"))
    assert (planned.actions, planned.status.phase) == ((), Phase.FAILED)
    assert condition(planned, ConditionType.FAILED).reason == "SpecError"
    assert "spec.training.steps: must be positive" in message_of(planned)


def test_a_name_that_is_taken_stalls_the_run_and_says_what_to_do() -> None:
    planned = decide(make_run(), conflicts=("Job/cpt-prepare",))
    assert (planned.actions, holding(planned)) == ((), {"Stalled"})
    assert condition(planned, ConditionType.STALLED).reason == "NameConflict"
    assert "Job/cpt-prepare in namespace team-a" in message_of(planned)
    assert [(event.type, event.reason) for event in planned.events] == [("Warning", "NameConflict")]


def test_what_could_not_be_applied_is_said_and_no_attempt_is_counted() -> None:
    planned = decide(make_run(prepared_status()), apply_errors=("cannot create Job cpt-a1: exceeded quota",))
    assert (planned.actions, planned.status.attempt) == ((), 0)
    assert condition(planned, ConditionType.RECONCILING).reason == "ApplyFailed"
    assert "exceeded quota" in message_of(planned)


WAITS: dict[str, tuple[Callable[[Manifest], Manifest], str, list[str]]] = {
    "a Secret that is missing": (
        lambda job: make_waiting_pod(job, reason="CreateContainerConfigError", message='secret "runyard-s3" not found'),
        "CreateContainerConfigError",
        ['secret "runyard-s3" not found', "namespace team-a", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    ),
    "an image that cannot be pulled": (
        lambda job: make_waiting_pod(job, reason="ImagePullBackOff", message='Back-off pulling image "x"'),
        "ImagePull",
        ['Back-off pulling image "x"', "compute.image"],
    ),
    "no node with room": (
        lambda job: with_condition(
            make_waiting_pod(job, reason="", message=""),
            "PodScheduled",
            "False",
            reason="Unschedulable",
            message="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        ),
        "Unschedulable",
        ["Insufficient nvidia.com/gpu", "add or free nodes"],
    ),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("make_job", [make_prepare_job, make_train_job])
def test_a_pod_that_waits_for_something_that_can_be_mended_is_told_and_does_not_fail(name: str, make_job: Any) -> None:
    make_waiting, reason, words = WAITS[name]
    job = make_job()
    run = make_run() if make_job is make_prepare_job else attempt_run(phase=Phase.STARTING)
    planned = decide(run, jobs=[job], pods=[make_waiting(job)])
    assert planned.status.phase in (Phase.PREPARING, Phase.STARTING)
    assert condition(planned, ConditionType.READY).reason == reason
    assert [word for word in words if word not in message_of(planned)] == []
