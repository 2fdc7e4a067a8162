"""What a run has cost: counted once, whatever the operator missed, and held against the run's limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from runyard.api import AttemptGpuSeconds, GpuSeconds, Limits, Phase, TrainingRunStatus
from runyard.ledger import account
from runyard.limits import find_excess, find_next_limit
from runyard.plan import plan
from runyard.times import format_time
from runyard.world import Manifest, Observed
from runyard_trainer.outcome import Progress

from tests.builders import (
    NOW,
    SETTINGS,
    at,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_progress,
    make_run,
    make_train_job,
    prepared_status,
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
    now: datetime = NOW,
) -> TrainingRunStatus:
    """The status after a pass that has seen these."""
    changes: dict[str, Any] = {**account(stored, attempt, pods, GPUS, progress, now), "attempt": attempt}
    return stored.model_copy(update=changes)


def test_pods_count_from_their_start_to_their_end() -> None:
    pods = [held_since(-100, make_pod(JOB, 0)), held_since(-60, make_dead_pod(JOB, 1, code=1, second=-20))]
    charged = charge(TrainingRunStatus(), [*pods, make_pod(JOB, 2)])
    assert charged.gpu_seconds == GpuSeconds(allocated=GPUS * (100 + 40))


def test_a_pod_that_is_gone_with_its_node_counts_until_then() -> None:
    pod = held_since(-100, make_pod(JOB, 0, **being_deleted(-50, grace_s=10)))
    assert charge(TrainingRunStatus(), [pod]).gpu_seconds == GpuSeconds(allocated=GPUS * (100 - 50 + 10 + 10))


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
    assert account(TrainingRunStatus(), 1, [held_since(-9, make_pod(JOB, 0))], 0, None, NOW) == {}


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
