"""What a run has cost, in GPU-seconds: kept in its status, so that it outlives the operator and nothing counts twice.

    allocated    what its pods held: each from when its node took it until it ended, times its GPUs
    productive   of these, what went into steps that a commit has
    lost         what went into steps that no commit has, of attempts that are over
    the rest     starting, measuring, exporting

Status has the totals, and the newest attempt's part of them: each pass takes that part out and puts in what it is now,
in one write. How long steps took is in the progress of rank 0; when pods began and ended is in their own status, and
is kept when they are gone. A pod that outlives its attempt on a node that is gone is not followed further.

What is held grows with the clock, and each write of a status is an event that has the run reconciled again: a cost that
has only grown is written once per progress interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from runyard_trainer.contract.reports import Progress
from runyard_trainer.contract.times import parse_time

from runyard.api.trainingrun import AttemptGpuSeconds, GpuSeconds, TrainingRunStatus
from runyard.decide.facts import pods
from runyard.decide.values import Manifest


def account(
    stored: TrainingRunStatus,
    attempt: int,
    attempt_pods: Iterable[Manifest],
    job: Manifest | None,
    gpus_per_pod: int,
    progress: Progress | None,
    now: datetime,
) -> dict[str, GpuSeconds | AttemptGpuSeconds]:
    """Return the fields of status that say what the run has cost until now; none where it has no GPUs.

    Args:
        stored: the status as it was written last.
        attempt: the newest.
        attempt_pods: its pods that are still there.
        job: its Job; None where it is gone.
        gpus_per_pod: GPUs that each of them has.
        progress: the last of its rank 0; ignored where it is of another attempt.
        now: the time.
    """
    if not gpus_per_pod or not attempt:
        return {}
    found = list(attempt_pods)
    is_newer = stored.attempt != attempt
    before = AttemptGpuSeconds() if is_newer or stored.attempt_gpu_seconds is None else stored.attempt_gpu_seconds
    held_s = sum(_held_s(pod, job, now) for pod in found)
    is_over = not any(pods.is_alive(pod, now) for pod in found)
    its_progress = progress if progress is not None and progress.attempt == attempt else None
    part = _measure(before, gpus_per_pod * held_s, gpus_per_pod * len(found), its_progress, is_over)
    totals = stored.gpu_seconds or GpuSeconds()
    return {
        "attempt_gpu_seconds": part,
        "gpu_seconds": GpuSeconds(
            allocated=totals.allocated - before.allocated + part.allocated,
            productive=totals.productive - before.productive + part.productive,
            lost=totals.lost - before.lost + part.lost,
        ),
    }


def hold_back(
    stored: TrainingRunStatus, planned: TrainingRunStatus, num_held: int, interval_s: float
) -> TrainingRunStatus:
    """Return the planned status, or the stored one where only the cost has grown, by less than `interval_s`.

    Args:
        stored: the status as it was written last.
        planned: what it is now.
        num_held: GPUs that pods hold now.
        interval_s: seconds for which these must have been held to be worth a write.
    """
    if stored.gpu_seconds is None or planned.gpu_seconds is None:
        return planned
    has_grown_s = planned.gpu_seconds.allocated - stored.gpu_seconds.allocated
    is_grown_only = planned.model_copy(update={name: getattr(stored, name) for name in _COST}) == stored
    return stored if is_grown_only and has_grown_s < num_held * interval_s else planned


_COST = ("gpu_seconds", "attempt_gpu_seconds")


def _measure(
    before: AttemptGpuSeconds, held_gpu_s: float, gpus: int, progress: Progress | None, is_over: bool
) -> AttemptGpuSeconds:
    """Return an attempt's part, which only grows, also when its pods are gone."""
    allocated = max(before.allocated, round(held_gpu_s))
    trained = round(gpus * progress.training_seconds) if progress else 0
    committed = round(gpus * progress.committed_seconds) if progress else 0
    training = min(allocated, max(before.training, trained))
    productive = min(training, max(before.productive, committed))
    return AttemptGpuSeconds(
        allocated=allocated,
        training=training,
        productive=productive,
        lost=training - productive if is_over else 0,
    )


def _held_s(pod: Manifest, job: Manifest | None, now: datetime) -> float:
    began = pod.get("status", {}).get("startTime")
    if began is None:
        return 0.0
    began_at = parse_time(began)
    ended_at = _find_end(pod, job, began_at) if pods.is_over(pod) else pods.when_lost(pod)
    return max(0.0, (min(now, ended_at or now) - began_at).total_seconds())


def _find_end(pod: Manifest, job: Manifest | None, began_at: datetime) -> datetime:
    """Return when a pod that is over has ended.

    A pod that was evicted, rejected or whose init container failed may lack the time, or have one before its start. Its
    end is then the latest time in its status and in the Job's failure: the same however late it is asked for.
    """
    termination = pods.read_termination(pod)
    if termination is not None and termination.finished_at and parse_time(termination.finished_at) >= began_at:
        return parse_time(termination.finished_at)
    failure = job and pods.find_job_failure(job)
    known = [
        *pods.list_times(pod),
        *((failure["lastTransitionTime"],) if failure and "lastTransitionTime" in failure else ()),
    ]
    return max([began_at, *map(parse_time, known)])
