"""Attempts that neither end nor go on, by example: not all pods started, no step ends, rank 0 is silent."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, Phase, Restarts
from runyard.decide.plan import plan
from runyard.decide.values import Observed, Run
from runyard_trainer.contract.reports import PodReport

from tests.builders import (
    NOW,
    SETTINGS,
    at,
    began,
    make_dead_pod,
    make_pod,
    make_progress,
    make_run,
    make_status,
    make_train_job,
    make_unscheduled_pod,
    make_waiting_pod,
    prepared_status,
)
from tests.unit.operator.decisions import attempt_run, condition, created, decide, deleted, message_of


def running_run(**spec: Any) -> Run:
    return make_run(make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1, phase=Phase.RUNNING), **spec)


# -------------------------------------------------------------------------------------------------------------- startup


def test_an_attempt_that_is_not_whole_in_time_is_given_back_and_comes_again_after_a_pause_that_costs_no_budget() -> (
    None
):
    job = began(make_train_job(), -900)
    pods = [make_pod(job, 0), make_unscheduled_pod(job, 1)]
    settled = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=pods)
    assert (settled.actions, settled.status.phase, settled.status.ended_attempt) == ((), Phase.RECOVERING, 1)
    assert settled.status.restarts == Restarts(startups=1)
    failure = settled.status.last_failure
    assert failure is not None
    assert failure.reason == "Unschedulable"
    assert "1 of 2 pods started within 900 s (recovery.startupTimeoutSeconds)" in failure.message
    assert "Insufficient nvidia.com/gpu" in failure.message
    assert [event.reason for event in settled.events] == ["StartupTimeout", "Recovering"]
    stopping = decide(make_run(settled.status), jobs=[job], pods=pods)
    assert deleted(stopping) == ["cpt-a1"]
    assert stopping.requeue_at is not None
    assert 15 <= (stopping.requeue_at - NOW).total_seconds() <= 30
    assert created(decide(make_run(stopping.status), now=stopping.requeue_at, pods=[])) == ["cpt-a2"]


def test_until_then_it_is_left_alone_and_looked_at_when_the_time_is_over() -> None:
    job = began(make_train_job(), -899)
    planned = decide(
        attempt_run(phase=Phase.STARTING), jobs=[job], pods=[make_pod(job, 0), make_unscheduled_pod(job, 1)]
    )
    assert (planned.status.phase, planned.status.ended_attempt, planned.requeue_at) == (Phase.STARTING, 0, at(1))


def test_an_attempt_whose_pods_all_started_has_all_the_time_there_is() -> None:
    job = began(make_train_job(), -9000)
    planned = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)])
    assert (planned.status.ended_attempt, planned.requeue_at) == (0, None)


def test_a_job_that_may_not_make_pods_yet_does_not_use_up_its_time() -> None:
    job = make_train_job()
    planned = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=[])
    assert (planned.status.ended_attempt, planned.requeue_at) == (0, None)


STARTUPS: dict[str, tuple[list[dict[str, str]], str, str]] = {
    "an image that cannot be pulled": (
        [{"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}],
        "ImagePull",
        "compute.image",
    ),
    "a pod that was not even made": ([], "StartupTimeout", "ResourceQuota"),
    "a volume that does not come": ([{"reason": "ContainerCreating", "message": ""}], "StartupTimeout", "events"),
}


@pytest.mark.parametrize("name", STARTUPS)
def test_the_reason_is_what_the_pods_wait_for(name: str) -> None:
    waits, reason, word = STARTUPS[name]
    job = began(make_train_job(), -900)
    pods = [make_pod(job, 0), *(make_waiting_pod(job, 1, **wait) for wait in waits)]
    failure = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=pods).status.last_failure
    assert failure is not None
    assert failure.reason == reason
    assert word in f"{failure.message}: {failure.remedy}"


def test_runs_that_could_not_start_together_do_not_come_back_together_and_wait_longer_each_time() -> None:
    waits = []
    for startups in range(7):
        job = began(make_train_job(), -900)
        status = prepared_status(attempt=1, restarts=Restarts(startups=startups))
        requeue_at = decide(make_run(status), jobs=[job], pods=[]).requeue_at
        assert requeue_at is not None
        waits.append((requeue_at - NOW).total_seconds())
    for wait, floor in zip(waits, [15, 30, 60, 120, 240, 300, 300], strict=True):
        assert floor <= wait <= floor * 2


# ---------------------------------------------------------------------------------------------------------------- stall


def test_a_rank_that_its_watchdog_has_ended_is_a_failure_with_the_place_of_the_stacks() -> None:
    job = make_train_job()
    message = "step 7 has not gone on for 600 s: the stacks of every rank are below s3://models/fin/stacks/attempt-1/"
    report = PodReport(reason="Stalled", message=message, exit_code=79, rank=3)
    planned = decide(running_run(), jobs=[job], pods=[make_dead_pod(job, 1, code=79, report=report), make_pod(job, 0)])
    assert planned.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert planned.status.last_failure is not None
    assert (planned.status.last_failure.reason, planned.status.last_failure.rank) == ("Stalled", 3)
    assert "s3://models/fin/stacks/attempt-1/" in message_of(planned)


@pytest.mark.parametrize(("on_stall", "word"), [("Restart", "next attempt"), ("Notify", "delete one of its pods")])
def test_while_no_step_ends_the_run_says_since_when_where_the_stacks_are_and_what_follows(
    on_stall: str, word: str
) -> None:
    job = make_train_job()
    stalled = make_progress(stalled_since="2026-05-04T11:50:00Z")
    run = running_run(recovery={"onStall": on_stall})
    planned = decide(run, jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)], progress=stalled)
    assert (planned.status.phase, planned.status.ended_attempt) == (Phase.RUNNING, 0)
    running = condition(planned, ConditionType.RUNNING)
    assert running.reason == "Stalled"
    assert "since 2026-05-04T11:50:00Z" in running.message
    assert "s3://models/fin/stacks/attempt-1/" in running.message
    assert word in running.message
    assert [(event.type, event.reason) for event in planned.events] == [("Warning", "Stalled")]
    again = decide(make_run(planned.status), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)], progress=stalled)
    assert again.events == ()


def silence(run: Run, seconds: float) -> Any:
    job = make_train_job()
    observed = Observed(jobs=(job,), pods=(make_pod(job, 0), make_pod(job, 1)), silent_since=at(-seconds))
    return plan(run, observed, SETTINGS, NOW)


def test_a_rank_0_that_has_answered_and_does_not_any_more_is_restarted_after_its_own_watchdog_had_its_time() -> None:
    waiting = silence(running_run(), 659)
    assert (waiting.status.ended_attempt, waiting.requeue_at) == (0, at(1))
    settled = silence(running_run(), 660)
    assert settled.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert settled.status.last_failure is not None
    assert settled.status.last_failure.reason == "Stalled"
    assert "has not answered on /progress for 660 s" in settled.status.last_failure.message


def test_a_rank_0_that_never_answered_in_this_attempt_may_be_out_of_reach_and_is_left_alone() -> None:
    assert silence(attempt_run(phase=Phase.STARTING), 9000).status.ended_attempt == 0


def test_on_notify_a_silent_rank_0_is_left_alone() -> None:
    assert silence(running_run(recovery={"onStall": "Notify"}), 9000).status.ended_attempt == 0
