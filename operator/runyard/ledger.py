"""What a run has cost, in GPU-seconds: kept in its status, so that it outlives the operator and nothing counts twice.

    allocated    what its pods held: each from when its node took it until it ended, times its GPUs
    productive   of these, what went into steps that a commit has
    lost         what went into steps that no commit has, of attempts that are over
    the rest     starting, measuring, exporting

Status has the totals, and the newest attempt's part of them: each pass takes that part out and puts in what it is now,
in one write. Rank 0 tells how long its steps took; the pods tell when they began and ended, and what they have told is
kept when they are gone. A pod that outlives its attempt on a node that is gone is not followed further.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from runyard_trainer.outcome import Progress

from runyard import pods
from runyard.api import AttemptGpuSeconds, GpuSeconds, TrainingRunStatus
from runyard.times import parse_time
from runyard.world import Manifest


def account(
    stored: TrainingRunStatus,
    attempt: int,
    attempt_pods: Iterable[Manifest],
    gpus_per_pod: int,
    progress: Progress | None,
    now: datetime,
) -> dict[str, GpuSeconds | AttemptGpuSeconds]:
    """The fields of status that say what the run has cost until now; none where it has no GPUs.

    Args:
        stored: the status as it was written last.
        attempt: the newest.
        attempt_pods: its pods that are still there.
        gpus_per_pod: GPUs that each of them has.
        progress: what rank 0 of it said last; of another attempt: nothing.
        now: the time.
    """
    if not gpus_per_pod or not attempt:
        return {}
    found = list(attempt_pods)
    is_newer = stored.attempt != attempt
    before = AttemptGpuSeconds() if is_newer or stored.attempt_gpu_seconds is None else stored.attempt_gpu_seconds
    part = _measure(before, found, gpus_per_pod, progress if progress and progress.attempt == attempt else None, now)
    totals = stored.gpu_seconds or GpuSeconds()
    return {
        "attempt_gpu_seconds": part,
        "gpu_seconds": GpuSeconds(
            allocated=totals.allocated - before.allocated + part.allocated,
            productive=totals.productive - before.productive + part.productive,
            lost=totals.lost - before.lost + part.lost,
        ),
    }


def _measure(
    before: AttemptGpuSeconds, found: list[Manifest], gpus_per_pod: int, progress: Progress | None, now: datetime
) -> AttemptGpuSeconds:
    """An attempt's part: it only grows, whatever can still be seen of it."""
    allocated = max(before.allocated, round(gpus_per_pod * sum(_held_s(pod, now) for pod in found)))
    gpus = gpus_per_pod * len(found)
    trained = round(gpus * progress.training_seconds) if progress else 0
    committed = round(gpus * progress.committed_seconds) if progress else 0
    training = min(allocated, max(before.training, trained))
    productive = min(training, max(before.productive, committed))
    is_over = not any(pods.is_alive(pod, now) for pod in found)
    return AttemptGpuSeconds(
        allocated=allocated,
        training=training,
        productive=productive,
        lost=training - productive if is_over else 0,
    )


def _held_s(pod: Manifest, now: datetime) -> float:
    began = pod.get("status", {}).get("startTime")
    if began is None:
        return 0.0
    ends = [now]
    termination = pods.read_termination(pod)
    if termination is not None and termination.finished_at:
        ends.append(parse_time(termination.finished_at))
    if (lost_at := pods.lost_at(pod)) is not None:
        ends.append(lost_at)
    return max(0.0, (min(ends) - parse_time(began)).total_seconds())
