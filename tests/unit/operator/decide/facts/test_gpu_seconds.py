"""What a run has cost: counted once, whatever the operator missed, and held against the run's limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from runyard.api.trainingrun import AttemptGpuSeconds, GpuSeconds, Limits, Phase, TrainingRunStatus
from runyard.decide.facts.gpu_seconds import account
from runyard.decide.facts.limits import find_excess, find_next_limit
from runyard.decide.plan import plan
from runyard.decide.values import Manifest, Observed
from runyard_trainer.contract.reports import Progress
from runyard_trainer.contract.times import format_time

from tests.builders import (
    NOW,
    SETTINGS,
    at,
    began,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_progress,
    make_run,
    make_train_job,
    make_waiting_pod,
    prepared_status,
    with_condition,
)

GPUS = 4
JOB = make_train_job()


def held_since(second: float, pod: Manifest) -> Manifest:
    pod["status"]["startTime"] = format_time(at(second))
    return pod


def charge(
    stored: TrainingRunStatus,
    pods: list[Manifest],
    progress: Progress | None = None,
    *,
    attempt: int = 1,
    job: Manifest | None = JOB,
    now: datetime = NOW,
) -> TrainingRunStatus:
    """The status after a pass that has seen these."""
    changes: dict[str, Any] = {**account(stored, attempt, pods, job, GPUS, progress, now), "attempt": attempt}
    return stored.model_copy(update=changes)


def test_pods_count_from_their_start_to_their_end() -> None:
    pods = [held_since(-100, make_pod(JOB, 0)), held_since(-60, make_dead_pod(JOB, 1, code=1, second=-20))]
    charged = charge(TrainingRunStatus(), [*pods, make_pod(JOB, 2)])
    assert charged.gpu_seconds == GpuSeconds(allocated=GPUS * (100 + 40))


def test_a_pod_that_is_gone_with_its_node_counts_until_then() -> None:
    pod = held_since(-100, make_pod(JOB, 0, **being_deleted(-50, grace_s=10)))
    assert charge(TrainingRunStatus(), [pod]).gpu_seconds == GpuSeconds(allocated=GPUS * (100 - 50 + 10 + 10))


# ----------------------------------------------------------------------- pods that are over, and do not say since when


def rejected(second: float, told: str | None) -> Manifest:
    """By its kubelet: it never ran."""
    pod = held_since(second, make_pod(JOB, 0, state={}))
    pod["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError", "containerStatuses": None}
    return with_condition(pod, "PodScheduled", lastTransitionTime=told) if told else pod


def evicted(second: float, told: str | None, finished_at: str | None = None) -> Manifest:
    """Nobody was left to say when its container ended."""
    pod = held_since(second, make_dead_pod(JOB, 0, code=137, reason="ContainerStatusUnknown"))
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = finished_at
    return with_condition(pod, "DisruptionTarget", lastTransitionTime=told) if told else pod


def failed_in_an_init_container(second: float, told: str | None) -> Manifest:
    pod = held_since(second, make_waiting_pod(JOB, 0, reason="PodInitializing", message=""))
    pod["status"] |= {"phase": "Failed"}
    ended = {"exitCode": 1, "startedAt": format_time(at(second)), "finishedAt": told}
    return (
        pod
        if told is None
        else pod | {"status": pod["status"] | {"initContainerStatuses": [{"state": {"terminated": ended}}]}}
    )


ENDINGS = [
    rejected,
    evicted,
    partial(evicted, finished_at="0001-01-01T00:00:00Z"),
    partial(evicted, finished_at="1970-01-01T00:00:00Z"),
    failed_in_an_init_container,
]


@pytest.mark.parametrize("build", ENDINGS)
@pytest.mark.parametrize("told_s", [None, 0, 7], ids=lambda told_s: f"told {told_s}")
@pytest.mark.parametrize("failed_s", [None, 9], ids=lambda failed_s: f"Job failed {failed_s}")
def test_a_pod_that_is_over_counts_until_the_last_that_anything_tells_however_late_it_is_seen(
    build: Callable[[float, str | None], Manifest], told_s: int | None, failed_s: int | None
) -> None:
    pod = build(0, None if told_s is None else format_time(at(told_s)))
    job = make_train_job(1)
    if failed_s is not None:
        job["status"]["conditions"] = [
            {"type": "Failed", "status": "True", "lastTransitionTime": format_time(at(failed_s))}
        ]
    charged = TrainingRunStatus()
    for hours in (0.01, 1, 60):
        charged = charge(charged, [pod], job=job, now=at(3600 * hours))
        assert charged.gpu_seconds == GpuSeconds(allocated=GPUS * max(told_s or 0, failed_s or 0))


@pytest.mark.parametrize("build", ENDINGS)
def test_what_it_was_seen_to_hold_before_is_kept(build: Callable[[float, str | None], Manifest]) -> None:
    running = charge(TrainingRunStatus(), [held_since(-100, make_pod(JOB, 0))])
    assert charge(running, [build(-100, None)], now=at(3600)).gpu_seconds == GpuSeconds(allocated=GPUS * 100)


@pytest.mark.parametrize("build", ENDINGS)
@pytest.mark.parametrize("spec", [{"suspend": True}, {}], ids=["suspended", "going on"])
def test_a_run_without_live_pods_spends_nothing(
    build: Callable[[float, str | None], Manifest], spec: dict[str, Any]
) -> None:
    status = prepared_status(attempt=1, ended_attempt=1, phase=Phase.SUSPENDED)
    observed = Observed(jobs=(make_train_job(1, "Failed"),), pods=(build(0, None),))
    run = make_run(status, limits={"maxGpuHours": 1}, **spec)
    for hours in (1, 60):
        planned = plan(run, observed, SETTINGS, at(3600 * hours))
        assert planned.status.gpu_seconds == GpuSeconds()
        assert planned.status.phase is not Phase.FAILED


# --------------------------------------------------------------------------------------------------- writing it down


@pytest.mark.parametrize("num_gpus", [1, 16, 64, 1024])
@pytest.mark.parametrize("cycle_s", [0.1, 1])
def test_a_run_on_which_nothing_happens_is_written_once_a_progress_interval(num_gpus: int, cycle_s: float) -> None:
    num_nodes, minute_s = max(1, num_gpus // 8), 60
    pods = tuple(held_since(-3600, make_pod(JOB, index)) for index in range(num_nodes))
    job = began(make_train_job(), -3600)
    job["spec"] |= {"completions": num_nodes, "parallelism": num_nodes}
    observed = Observed(jobs=(job,), pods=pods, progress=make_progress())
    shape = {"nodes": num_nodes, "gpusPerNode": num_gpus // num_nodes}
    run = make_run(prepared_status(attempt=1, phase=Phase.RUNNING), compute=shape)
    num_writes = 0
    for number in range(int(minute_s / cycle_s)):
        status = plan(run, observed, SETTINGS, at(number * cycle_s)).status
        num_writes += status != run.status
        run = replace(run, status=status)
    assert num_writes <= 1 + minute_s / SETTINGS.progress_interval_s
    assert status.gpu_seconds is not None
    held = num_gpus * (3600 + minute_s)
    assert held - num_gpus * 2 * SETTINGS.progress_interval_s <= status.gpu_seconds.allocated <= held


def test_what_happens_is_written_with_the_cost_of_that_moment() -> None:
    alive = [held_since(-100, make_pod(JOB, index)) for index in range(2)]
    run = make_run(prepared_status(attempt=1, phase=Phase.RUNNING))
    observed = Observed(jobs=(began(make_train_job(), -100),), pods=tuple(alive), progress=make_progress())
    run = replace(run, status=plan(run, observed, SETTINGS, NOW).status)
    assert plan(run, observed, SETTINGS, at(1)).status == run.status
    stepped = replace(observed, progress=make_progress(step=11))
    assert plan(run, stepped, SETTINGS, at(1)).status.gpu_seconds == GpuSeconds(allocated=2 * GPUS * 101)


# ----------------------------------------------------------------------------------------------- steps and attempts


def test_steps_are_productive_once_they_are_committed_and_lost_if_the_attempt_is_over() -> None:
    progress = make_progress(training_seconds=50, committed_seconds=30)
    alive = [held_since(-100, make_pod(JOB, index)) for index in range(2)]
    running = charge(TrainingRunStatus(), alive, progress)
    assert running.gpu_seconds == GpuSeconds(allocated=2 * GPUS * 100, productive=2 * GPUS * 30)
    dead = [held_since(-100, make_dead_pod(JOB, index, code=137, second=-10)) for index in range(2)]
    over = charge(running, dead)
    want = GpuSeconds(allocated=2 * GPUS * 100, productive=2 * GPUS * 30, lost=2 * GPUS * 20)
    assert over.gpu_seconds == want
    assert charge(over, []).gpu_seconds == want, "what pods have told is kept when they are gone"


def test_the_next_attempt_is_added_and_passes_that_repeat_add_nothing() -> None:
    first = charge(TrainingRunStatus(), [held_since(-100, make_dead_pod(JOB, 0, code=1, second=-90))])
    again = charge(first, [held_since(-100, make_dead_pod(JOB, 0, code=1, second=-90))])
    assert again == first
    second_job = make_train_job(2)
    second = charge(first, [held_since(-30, make_pod(second_job, 0))], attempt=2)
    assert second.gpu_seconds == GpuSeconds(allocated=GPUS * (10 + 30))
    assert second.attempt_gpu_seconds == AttemptGpuSeconds(allocated=GPUS * 30)
    stale = make_progress(attempt=1, training_seconds=9, committed_seconds=9)
    assert charge(second, [held_since(-30, make_pod(second_job, 0))], stale, attempt=2) == second


def test_a_run_without_gpus_costs_none() -> None:
    assert account(TrainingRunStatus(), 1, [held_since(-9, make_pod(JOB, 0))], JOB, 0, None, NOW) == {}


# --------------------------------------------------------------------------------------------------------------- limits


LIMITS = Limits(max_gpu_hours=1, active_deadline_seconds=600)


@pytest.mark.parametrize(
    ("allocated", "second", "reason"),
    [(3599, 599, None), (3600, 0, "BudgetExceeded"), (0, 600, "DeadlineExceeded")],
)
def test_a_limit_is_reached_at_its_value(allocated: int, second: float, reason: str | None) -> None:
    status = TrainingRunStatus(gpu_seconds=GpuSeconds(allocated=allocated), start_time=format_time(NOW))
    excess = find_excess(LIMITS, status, at(second))
    assert (excess and excess.reason) == reason


def test_the_next_limit_is_foreseen_from_what_is_held_now() -> None:
    status = TrainingRunStatus(gpu_seconds=GpuSeconds(allocated=3600 - 80), start_time=format_time(NOW))
    assert find_next_limit(LIMITS, status, 8, at(30)) == at(40)
    assert find_next_limit(LIMITS, status, 0, at(30)) == at(600)
    assert find_next_limit(Limits(), status, 8, NOW) is None


def test_a_run_at_its_limit_has_failed_and_its_pods_are_told_to_save() -> None:
    job = make_train_job()
    pods = tuple(held_since(-450, make_pod(job, index)) for index in range(2))
    run = make_run(prepared_status(attempt=1), limits={"maxGpuHours": 1})
    observed = Observed(jobs=(job,), pods=pods, progress=make_progress())
    before = plan(run, observed, SETTINGS, at(-1))
    assert before.status.phase is Phase.RUNNING
    assert before.requeue_at == NOW
    after = plan(run, observed, SETTINGS, NOW)
    assert after.status.phase is Phase.FAILED
    assert after.status.conditions[0].reason == "BudgetExceeded"
    assert "limits.maxGpuHours is 1" in after.status.conditions[0].message
    stored = make_run(after.status, limits={"maxGpuHours": 1})
    assert [type(action).__name__ for action in plan(stored, observed, SETTINGS, NOW).actions] == ["Delete"]
