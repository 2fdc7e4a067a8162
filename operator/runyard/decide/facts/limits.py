"""What a run may take (`spec.limits`): whether a limit is reached, and when the next one will be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from runyard_trainer.contract.times import parse_time

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import Limits, TrainingRunStatus


class Excess(NamedTuple):
    """A limit that is reached."""

    reason: ConditionReason
    message: str


_GOING_ON = (
    ": its pods save a last checkpoint. To go on from it, apply the run under another name with output.takeOver: true "
    "and a higher limit"
)


def find_excess(limits: Limits, status: TrainingRunStatus, now: datetime) -> Excess | None:
    """Return the limit that is reached, if one is."""
    spent_s, deadline = _spent_s(status), _find_deadline(limits, status)
    if limits.max_gpu_hours is not None and spent_s >= limits.max_gpu_hours * 3600:
        hours = f"{spent_s / 3600:.2f} GPU-hours are spent, and limits.maxGpuHours is {limits.max_gpu_hours:g}"
        return Excess(ConditionReason.BUDGET_EXCEEDED, hours + _GOING_ON)
    if deadline is not None and now >= deadline:
        began = f"the run was started at {status.start_time}, and limits.activeDeadlineSeconds is "
        return Excess(ConditionReason.DEADLINE_EXCEEDED, f"{began}{limits.active_deadline_seconds}{_GOING_ON}")
    return None


def find_next_limit(limits: Limits, status: TrainingRunStatus, gpus: int, now: datetime) -> datetime | None:
    """Return when the next limit is reached if `gpus` are held from now on; None where there is no limit."""
    spent_at = None
    if limits.max_gpu_hours is not None and gpus:
        rest_s = max(0.0, limits.max_gpu_hours * 3600 - _spent_s(status))
        spent_at = now + timedelta(seconds=rest_s / gpus)
    return min(filter(None, (spent_at, _find_deadline(limits, status))), default=None)


def _spent_s(status: TrainingRunStatus) -> int:
    return status.gpu_seconds.allocated if status.gpu_seconds is not None else 0


def _find_deadline(limits: Limits, status: TrainingRunStatus) -> datetime | None:
    if status.start_time is None or limits.active_deadline_seconds is None:
        return None
    return parse_time(status.start_time) + timedelta(seconds=limits.active_deadline_seconds)
