"""The status of a run: what is learned from an observation, and how a decision of `rules` is shown.

Conditions are the truth. kstatus reads Ready, Reconciling and Stalled, and treats a run like a Job: in progress until
it runs, current from then on, failed when it has failed. Prepared, Succeeded and Failed are also this operator's
memory, as Jobs may be gone. `phase` is for people: no code decides by it. It is read only to be shown, in Events,
messages and metrics, and to stay as it is where a decision does not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from runyard_trainer.contract.exits import Reason
from runyard_trainer.contract.reports import CommittedCheckpoint, PodReport, Progress
from runyard_trainer.contract.times import format_duration, format_time

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import (
    Condition,
    ConditionType,
    Phase,
    Restarts,
    RunProgress,
    TrainingRunSpec,
    TrainingRunStatus,
)
from runyard.decide.facts.endings import describe_failure
from runyard.decide.values import Decision, Event

_NOT_IN_PROGRESS = (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
_ADMITTED = (Phase.STARTING, Phase.RUNNING, Phase.RECOVERING)


def find_condition(status: TrainingRunStatus, kind: ConditionType) -> Condition | None:
    """Return the condition of that type, if there is one yet."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def is_true(status: TrainingRunStatus, kind: ConditionType) -> bool:
    """Return whether the condition holds."""
    condition = find_condition(status, kind)
    return condition is not None and condition.status == "True"


def is_finished(status: TrainingRunStatus) -> bool:
    """Return whether the run has succeeded or failed, which is for good."""
    return is_true(status, ConditionType.SUCCEEDED) or is_true(status, ConditionType.FAILED)


def is_new(status: TrainingRunStatus) -> bool:
    """Return whether no status has been written yet: at most the run's preparation has begun."""
    # metadata.generation begins with 1, and by default the CRD gives a new run an observedGeneration of -1
    return (status.observed_generation or 0) < 1


def is_queued(status: TrainingRunStatus) -> bool:
    """Return whether the run waits for quota."""
    return status.queue is not None


def may_hold_gpus(status: TrainingRunStatus) -> bool:
    """Return whether pods of the run may be there: an attempt goes on, or saves a checkpoint and stops."""
    ready = find_condition(status, ConditionType.READY)
    is_stopping = ready is not None and ready.reason == ConditionReason.SUSPENDING
    return status.attempt > status.ended_attempt or is_stopping


class QuotaClaim(NamedTuple):
    """The part of a run's status that matters to the runs that share quotas with it."""

    is_queued: bool
    attempt: int
    ended_attempt: int
    conditions: frozenset[str]
    """Those that hold."""


def read_quota_claim(status: TrainingRunStatus) -> QuotaClaim:
    """Return the part of the status that matters to the runs that share quotas with this one."""
    holding = frozenset(condition.type for condition in status.conditions if condition.status == "True")
    return QuotaClaim(is_queued(status), status.attempt, status.ended_attempt, holding)


# -------------------------------------------------------------------------------------------------- from observations


def learn_shape(status: TrainingRunStatus, spec: TrainingRunSpec) -> TrainingRunStatus:
    """Add what follows from the spec alone."""
    gpus = (status.nodes or spec.compute.nodes) * spec.compute.gpus_per_node
    return status.model_copy(update={"mode": spec.mode, "gpus": gpus})


def learn_preparation(status: TrainingRunStatus, report: PodReport | None) -> TrainingRunStatus:
    """Add what prepare has found."""
    if report is None:
        return status
    resolved = status.resolved | (report.resolved or {})
    return status.model_copy(update={"data": report.data or status.data, "resolved": resolved})


def learn_progress(status: TrainingRunStatus, progress: Progress | None) -> TrainingRunStatus:
    """Add the progress of the newest attempt's rank 0. A newer checkpoint resets `failuresSinceCheckpoint`."""
    if progress is None or progress.attempt != status.attempt:
        return status
    known = status.checkpoint.step if status.checkpoint else -1
    restarts, checkpoint = status.restarts, status.checkpoint
    if progress.checkpoint is not None and progress.checkpoint.step >= known:
        checkpoint = progress.checkpoint
    if checkpoint is not None and checkpoint.step > known:
        restarts = restarts.model_copy(update={"failures_since_checkpoint": 0})
    return status.model_copy(
        update={
            "progress": status.progress if progress.stage == "starting" else _show_progress(progress),
            "checkpoint": checkpoint,
            "restarts": restarts,
            "resolved": status.resolved | progress.resolved,
        }
    )


def _show_progress(progress: Progress) -> RunProgress:
    return RunProgress(
        step=progress.step,
        total_steps=progress.total_steps,
        tokens=progress.tokens,
        tokens_per_second=None if progress.tokens_per_second is None else round(progress.tokens_per_second),
        loss=None if progress.loss is None else f"{progress.loss:.3f}",
        eta_seconds=progress.eta_seconds,
        eta=None if progress.eta_seconds is None else format_duration(progress.eta_seconds),
        last_heartbeat_time=progress.last_heartbeat_time,
    )


def count(
    restarts: Restarts, *, failures: int = 0, disruptions: int = 0, preemptions: int = 0, startups: int = 0
) -> Restarts:
    """Return the counters with attempts added that have ended early."""
    return Restarts(
        failures=restarts.failures + failures,
        disruptions=restarts.disruptions + disruptions,
        preemptions=restarts.preemptions + preemptions,
        startups=restarts.startups + startups,
        failures_since_checkpoint=restarts.failures_since_checkpoint + failures,
    )


# ------------------------------------------------------------------------------------------------------ from decisions


def describe_start(checkpoint: CommittedCheckpoint | None) -> str:
    """Describe where the next attempt goes on: `from step 200`."""
    return f"from step {checkpoint.step}" if checkpoint else "from its newest checkpoint, if there is one"


def build_status(
    known: TrainingRunStatus, decision: Decision, *, is_prepared: bool, generation: int, now: datetime
) -> TrainingRunStatus:
    """Build the whole status from what is known and a decision."""
    changed = known.model_copy(update=decision.changes)
    conditions = _build_conditions(known.conditions, decision, is_prepared, generation, now)
    return changed.model_copy(
        update={
            "observed_generation": generation,
            "phase": decision.phase,
            "conditions": conditions,
            "queue": changed.queue if decision.phase is Phase.QUEUED else None,
            "progress": changed.progress if decision.phase is Phase.RUNNING else _without_speed(changed.progress),
        }
    )


def _without_speed(progress: RunProgress | None) -> RunProgress | None:
    """Clear speed and time left, as nothing is being trained."""
    nothing = {"tokens_per_second": None, "eta_seconds": None, "eta": None}
    return None if progress is None else progress.model_copy(update=nothing)


def _build_conditions(
    old: Sequence[Condition], decision: Decision, is_prepared: bool, generation: int, now: datetime
) -> list[Condition]:
    before = {condition.type: condition for condition in old}
    return [
        _build_condition(kind, holds, reason, message, before.get(kind), generation, now)
        for kind, holds, reason, message in _derive_conditions(decision, is_prepared)
    ]


def _derive_conditions(decision: Decision, is_prepared: bool) -> Iterator[tuple[ConditionType, bool, str, str]]:
    phase, reason_and_message = decision.phase, (decision.reason, decision.message)
    is_stalled = decision.is_stalled or phase is Phase.FAILED
    is_ready = phase in (Phase.RUNNING, Phase.SUCCEEDED) and not is_stalled
    is_at_rest = is_ready or phase in _NOT_IN_PROGRESS or is_stalled
    yield ConditionType.READY, is_ready, *reason_and_message
    yield ConditionType.RECONCILING, not is_at_rest, *reason_and_message
    holding = {
        ConditionType.STALLED: is_stalled,
        ConditionType.PREPARED: is_prepared,
        ConditionType.ADMITTED: phase in _ADMITTED,
        ConditionType.RUNNING: phase is Phase.RUNNING,
        ConditionType.SUSPENDED: phase is Phase.SUSPENDED,
        ConditionType.SUCCEEDED: phase is Phase.SUCCEEDED,
        ConditionType.FAILED: phase is Phase.FAILED,
    }
    for kind, holds in holding.items():
        if holds and kind is not ConditionType.PREPARED:
            yield kind, True, *reason_and_message
        elif kind is ConditionType.ADMITTED and phase is Phase.QUEUED:
            yield kind, False, *reason_and_message
        else:
            yield kind, holds, kind.value if holds else f"Not{kind}", ""


def _build_condition(
    kind: ConditionType, holds: bool, reason: str, message: str, old: Condition | None, generation: int, now: datetime
) -> Condition:
    status = "True" if holds else "False"
    has_flipped = old is None or old.status != status
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=format_time(now) if has_flipped or old is None else old.last_transition_time,
        reason=reason,
        message=message,
    )


# --------------------------------------------------------------------------------------------------------------- Events


def build_events(old: TrainingRunStatus, new: TrainingRunStatus) -> tuple[Event, ...]:
    """Build the Events for the change from one status to the next."""
    return (*_report_ended_attempt(old, new), *_report_stall(old, new), *_report_phase(old, new))


def _report_ended_attempt(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    failure = new.last_failure
    if failure is None or failure == old.last_failure:
        return
    if failure.attempt is None:
        reason = ConditionReason.PREPARE_FAILED
    elif new.restarts.disruptions > old.restarts.disruptions:
        reason = ConditionReason.DISRUPTED
    else:
        has_timed_out = new.restarts.startups > old.restarts.startups
        reason = ConditionReason.STARTUP_TIMEOUT if has_timed_out else ConditionReason.ATTEMPT_FAILED
    yield Event("Warning", reason, describe_failure(failure))


def _report_stall(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    before, running = (find_condition(status, ConditionType.RUNNING) for status in (old, new))
    if running is not None and running.reason == Reason.STALLED and (before is None or before.reason != Reason.STALLED):
        yield Event("Warning", Reason.STALLED, running.message)


def _report_phase(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    ready = find_condition(new, ConditionType.READY)
    is_stalled = is_true(new, ConditionType.STALLED)
    is_newly_stalled = is_stalled and not is_true(old, ConditionType.STALLED)
    if ready is None or new.phase is None or (new.phase == old.phase and not is_newly_stalled):
        return
    is_evicted = new.restarts.preemptions > old.restarts.preemptions
    is_special = is_evicted or (is_newly_stalled and new.phase is not Phase.FAILED)
    name = ready.reason if is_special else new.phase.value
    yield Event("Warning" if is_stalled else "Normal", name, ready.message or ready.reason)
