"""What the rules make of an attempt that ends before its run is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, LastFailure, Phase, Restarts
from runyard.decide.values import Delete, Manifest
from runyard_trainer.contract.exits import ExitCode
from runyard_trainer.contract.reports import CommittedCheckpoint, PodReport
from runyard_trainer.contract.times import format_time

from tests.builders import (
    NOW,
    at,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_progress,
    make_run,
    make_train_job,
    prepared_status,
    recovering_status,
    with_condition,
)
from tests.unit.operator.decisions import attempt_run, condition, created, decide, deleted, holding, message_of


def test_a_failed_attempt_is_settled_first_and_the_next_one_starts_only_from_the_stored_status() -> None:
    job = make_train_job()
    report = PodReport(reason="Error", message="it broke", exit_code=1, rank=5, log_tail="Traceback")
    observed: dict[str, Any] = {"jobs": [job], "pods": [make_dead_pod(job, 1, code=1, report=report), make_pod(job, 0)]}
    settled = decide(attempt_run(), **observed)
    assert (settled.actions, settled.status.phase) == ((), Phase.RECOVERING)
    assert (settled.status.attempt, settled.status.ended_attempt) == (1, 1)
    assert settled.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert settled.status.last_failure == LastFailure(
        attempt=1,
        rank=5,
        node="node-1",
        exit_code=1,
        reason="Error",
        message="it broke",
        remedy="look at its log: kubectl logs cpt-a1-1-x",
        log_tail="Traceback",
        time=format_time(at(-1)),
    )
    assert settled.requeue_at == NOW
    started = decide(make_run(settled.status), **observed)
    assert created(started) == ["cpt-a2"]
    assert started.status.restarts == settled.status.restarts
    assert (started.status.attempt, started.status.next_attempt_time) == (2, None)


@pytest.mark.parametrize("code", [64, 65, 66, 67, 70, 71, 78])
def test_a_fatal_exit_fails_the_run_at_once(code: int) -> None:
    job = make_train_job()
    report = PodReport(reason="NonFinite", message="loss is nan", exit_code=code, rank=0)
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=code, report=report), make_pod(job, 1)])
    assert (planned.status.phase, holding(planned)) == (Phase.FAILED, {"Prepared", "Stalled", "Failed"})
    assert condition(planned, ConditionType.FAILED).reason == "NonFinite"
    assert condition(planned, ConditionType.FAILED).message.endswith("loss is nan")


def test_gpus_that_are_not_seen_fail_the_run_at_once_with_what_the_node_says_and_no_more() -> None:
    job = make_train_job()
    code = ExitCode.GPUS_MISSING
    report = PodReport(reason=code.reason, message="torch sees none. Use another image", exit_code=code, rank=0)
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=code, report=report), make_pod(job, 1)])
    failed = condition(planned, ConditionType.FAILED)
    assert (planned.status.phase, failed.reason, created(planned)) == (Phase.FAILED, "GpusMissing", [])
    want = "attempt 1, rank 0 on node-0 ended with GpusMissing, exit code 71: torch sees none. Use another image"
    assert failed.message == want


@pytest.mark.parametrize("code", [1, 2, 134, 137, 139])
def test_any_other_exit_is_a_failure(code: int) -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=code)])
    assert planned.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)


def test_a_container_that_someone_put_beside_ours_says_nothing() -> None:
    job = make_train_job()
    pod = make_pod(job)
    pod["status"]["containerStatuses"].insert(0, {"name": "sidecar", "state": {"terminated": {"exitCode": 64}}})
    assert decide(attempt_run(), jobs=[job], pods=[pod]).status.ended_attempt == 0


def test_a_pod_out_of_memory_says_so_and_what_to_do() -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=137, reason="OOMKilled")])
    failure = planned.status.last_failure
    assert failure is not None
    assert failure.reason == "OOMKilled"
    assert "compute.resources.memory" in failure.remedy
    assert "compute.resources.memory" in planned.events[0].message


def test_a_pod_without_a_report_says_how_it_ended_with_the_end_of_its_log() -> None:
    job = make_train_job()
    pod = make_dead_pod(job, code=127)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "sh: python: not found"
    failure = decide(attempt_run(), jobs=[job], pods=[pod]).status.last_failure
    assert failure is not None
    assert (failure.message, failure.log_tail) == ("pod cpt-a1-0-x ended with exit code 127", "sh: python: not found")
    assert failure.remedy == "look at its log: kubectl logs cpt-a1-0-x"


def test_more_failures_than_the_budget_fail_the_run_and_the_message_names_the_budget() -> None:
    job = make_train_job(4)
    status = prepared_status(attempt=4, ended_attempt=3, restarts=Restarts(failures=3, failures_since_checkpoint=3))
    planned = decide(make_run(status), jobs=[job], pods=[make_dead_pod(job, code=1)])
    assert (planned.status.phase, condition(planned, ConditionType.FAILED).reason) == (
        Phase.FAILED,
        "FailureBudgetExceeded",
    )
    assert "recovery.maxFailures is 3" in message_of(planned)
    assert planned.status.restarts.failures == 4


def test_a_newer_checkpoint_refills_the_failure_budget() -> None:
    job = make_train_job(4)
    status = prepared_status(attempt=4, ended_attempt=3, restarts=Restarts(failures=3, failures_since_checkpoint=3))
    progress = make_progress(attempt=4, checkpoint=CommittedCheckpoint(uri="u", step=50, time="t"))
    planned = decide(make_run(status), jobs=[job], pods=[make_pod(job)], progress=progress)
    assert planned.status.restarts == Restarts(failures=3, failures_since_checkpoint=0)
    again = decide(make_run(planned.status), jobs=[job], pods=[make_dead_pod(job, code=1)], progress=progress)
    assert again.status.restarts == Restarts(failures=4, failures_since_checkpoint=1)


def test_more_disruptions_than_the_budget_fail_the_run() -> None:
    job = make_train_job()
    run = make_run(prepared_status(attempt=1, restarts=Restarts(disruptions=20)))
    planned = decide(run, jobs=[job], pods=[make_dead_pod(job, code=75)])
    assert condition(planned, ConditionType.FAILED).reason == "DisruptionBudgetExceeded"
    assert "recovery.maxDisruptions is 20" in message_of(planned)


def _evicted(job: Manifest) -> list[Manifest]:
    pod = make_pod(job)
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    return [pod]


DISRUPTIONS: dict[str, tuple[Callable[[Manifest], list[Manifest]], str]] = {
    "an interrupted rank": (lambda job: [make_dead_pod(job, code=75)], "Interrupted"),
    "a pod ended by SIGTERM": (lambda job: [make_dead_pod(job, code=143)], "Error"),
    "a pod drained from its node": (
        lambda job: [with_condition(make_dead_pod(job, code=1), "DisruptionTarget", reason="EvictionByEvictionAPI")],
        "EvictionByEvictionAPI",
    ),
    "a pod evicted for lack of memory": (_evicted, "Evicted"),
    "a pod deleted by hand, killed": (
        lambda job: [make_dead_pod(job, code=137, second=-1, **being_deleted(-5, grace_s=0))],
        "PodDeleted",
    ),
    "a pod past its grace period on a node that is gone": (
        lambda job: [make_pod(job, **being_deleted(-60))],
        "NodeLost",
    ),
    "a pod on a node that does not answer": (
        lambda job: [
            with_condition(
                with_condition(
                    make_pod(job, **being_deleted(-1, grace_s=120)), "DisruptionTarget", reason="DeletionByTaintManager"
                ),
                "Ready",
                "False",
            )
        ],
        "NodeLost",
    ),
}


@pytest.mark.parametrize("name", DISRUPTIONS)
def test_an_attempt_whose_pods_were_taken_away_is_disrupted_and_goes_on_at_once(name: str) -> None:
    make_pods, reason = DISRUPTIONS[name]
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=make_pods(job))
    assert planned.status.restarts == Restarts(disruptions=1)
    assert planned.status.last_failure is not None
    assert planned.status.last_failure.reason == reason
    assert planned.requeue_at == NOW
    assert created(decide(make_run(planned.status), jobs=[job], pods=make_pods(job))) == ["cpt-a2"]


def test_a_job_deleted_by_hand_is_a_disruption_once_its_pods_have_saved() -> None:
    job = make_train_job()
    saving = make_pod(job, **being_deleted(-1, grace_s=120))
    waiting = decide(attempt_run(), pods=[saving])
    assert (waiting.actions, waiting.status.restarts) == ((), Restarts())
    assert waiting.requeue_at == at(-1 + 120 + 10)
    assert decide(attempt_run()).status.restarts == Restarts(disruptions=1)


def test_a_pod_told_to_stop_keeps_its_attempt_until_it_has_saved() -> None:
    job = make_train_job()
    planned = decide(
        attempt_run(), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1, **being_deleted(-5, grace_s=120))]
    )
    assert (planned.actions, planned.status.restarts, planned.status.ended_attempt) == ((), Restarts(), 0)


def test_a_pod_that_is_gone_without_a_trace_is_told_by_the_job() -> None:
    job = make_train_job(1, "FailureTarget")
    assert decide(attempt_run(), jobs=[job], pods=[make_pod(job, 1)]).status.restarts == Restarts(disruptions=1)


def test_a_job_that_fails_before_its_pods_are_seen_to_is_looked_at_again() -> None:
    job = make_train_job(1, "FailureTarget")
    assert decide(attempt_run(), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)]).status.ended_attempt == 0


def test_the_first_to_break_is_the_cause_and_not_those_who_lost_it() -> None:
    job = make_train_job()
    report = PodReport(reason="Error", message="the cause", exit_code=137, rank=1)
    pods = [
        make_dead_pod(job, 0, code=75, second=-9, report=PodReport(reason="Interrupted", rank=0, exit_code=75)),
        make_dead_pod(job, 1, code=137, second=-3, report=report, **being_deleted(-8)),
    ]
    planned = decide(attempt_run(), jobs=[job], pods=pods)
    assert planned.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert planned.status.last_failure is not None
    assert (planned.status.last_failure.rank, planned.status.last_failure.message) == (1, "the cause")


def test_while_only_victims_are_seen_the_cause_is_waited_for_a_little() -> None:
    job = make_train_job()
    pods = [make_dead_pod(job, 0, code=75, second=-2), make_pod(job, 1)]
    waiting = decide(attempt_run(), jobs=[job], pods=pods)
    assert (waiting.status.ended_attempt, waiting.requeue_at) == (0, at(13))
    assert decide(attempt_run(), now=at(13), jobs=[job], pods=pods).status.restarts == Restarts(disruptions=1)


def test_a_failed_job_is_kept_for_its_logs_and_one_that_would_go_on_is_deleted() -> None:
    job = make_train_job()
    run = make_run(recovering_status(last_failure=LastFailure(attempt=1, reason="Error")))
    assert deleted(decide(run, jobs=[job], pods=[make_dead_pod(job, 0, code=1), make_pod(job, 1)])) == []
    half_lost = decide(run, jobs=[job], pods=[make_pod(job, 0, **being_deleted(-60)), make_pod(job, 1)])
    assert half_lost.actions[0] == Delete("Job", "cpt-a1", "uid-cpt-a1", "3")
    assert created(half_lost) == ["cpt-a2"]


def test_a_failure_is_repeated_at_once_and_one_that_comes_again_waits_longer_each_time() -> None:
    job = make_train_job()
    waits = []
    for failures in range(10):
        restarts = Restarts(failures=failures, failures_since_checkpoint=failures)
        run = make_run(prepared_status(attempt=1, restarts=restarts), recovery={"maxFailures": 100})
        settled = decide(run, jobs=[job], pods=[make_dead_pod(job, code=1)])
        assert settled.requeue_at is not None
        waits.append((settled.requeue_at - NOW).total_seconds())
    assert waits[0] == 0
    for wait, floor in zip(waits[1:], [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert floor <= wait <= floor * 1.25 + 1  # in whole seconds
    waiting = decide(make_run(settled.status), jobs=[job], pods=[make_dead_pod(job, code=1)])
    assert (waiting.actions, waiting.status, waiting.requeue_at) == ((), settled.status, settled.requeue_at)
    others = [replace(run, uid=f"uid-{number}") for number in range(9)]
    assert len({decide(other, jobs=[job], pods=[make_dead_pod(job, code=1)]).requeue_at for other in others}) > 1
