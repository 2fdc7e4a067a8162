"""The status of a run: what is learned from what was observed, and how a decision of `rules` is shown. Pure.

Conditions are the truth. Ready, Reconciling and Stalled are what kstatus reads, to which a run is like a Job: in
progress until it runs, current from then on, failed when it has failed. Prepared, Succeeded and Failed are also this
operator's memory, as Jobs may be gone. `phase` is for people: no code reads it, but for the Events of its changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from runyard_trainer.contract.reports import CommittedCheckpoint, PodReport, Progress
from runyard_trainer.contract.times import format_duration, format_time

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

FINISHED = (Phase.SUCCEEDED, Phase.FAILED)
STALLED = "Stalled"
"""Reason of Running while no step ends."""

_SETTLED = (*FINISHED, Phase.SUSPENDED)
_ADMITTED = (Phase.STARTING, Phase.RUNNING, Phase.RECOVERING)


def find_condition(status: TrainingRunStatus, kind: ConditionType) -> Condition | None:
    """The condition of that type, if there is one yet."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def is_true(status: TrainingRunStatus, kind: ConditionType) -> bool:
    """Whether the condition holds."""
    condition = find_condition(status, kind)
    return condition is not None and condition.status == "True"


def is_finished(status: TrainingRunStatus) -> bool:
    """Whether the run has succeeded or failed, which is for good."""
    return is_true(status, ConditionType.SUCCEEDED) or is_true(status, ConditionType.FAILED)


# ------------------------------------------------------------------------------------------------------------- learning


def learn_shape(status: TrainingRunStatus, spec: TrainingRunSpec) -> TrainingRunStatus:
    """What the spec alone tells."""
    gpus = (status.nodes or spec.compute.nodes) * spec.compute.gpus_per_node
    return status.model_copy(update={"mode": spec.mode, "gpus": gpus})


def learn_preparation(status: TrainingRunStatus, report: PodReport | None) -> TrainingRunStatus:
    """What prepare has found."""
    if report is None:
        return status
    resolved = status.resolved | (report.resolved or {})
    return status.model_copy(update={"data": report.data or status.data, "resolved": resolved})


def learn_progress(status: TrainingRunStatus, progress: Progress | None) -> TrainingRunStatus:
    """What rank 0 of the newest attempt says. A newer checkpoint makes the failures before it forgotten."""
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
    """With one more attempt that has ended early."""
    return Restarts(
        failures=restarts.failures + failures,
        disruptions=restarts.disruptions + disruptions,
        preemptions=restarts.preemptions + preemptions,
        startups=restarts.startups + startups,
        failures_since_checkpoint=restarts.failures_since_checkpoint + failures,
    )


# -------------------------------------------------------------------------------------------------------------- showing


def describe_start(checkpoint: CommittedCheckpoint | None) -> str:
    """Where the next attempt goes on."""
    return f"from step {checkpoint.step}" if checkpoint else "from its newest checkpoint, if there is one"


def build_status(
    known: TrainingRunStatus, decision: Decision, *, is_prepared: bool, generation: int, now: datetime
) -> TrainingRunStatus:
    """The whole status that a decision makes of what is known."""
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
    """Nothing is being trained, so that there is no speed and no end in sight."""
    nothing = {"tokens_per_second": None, "eta_seconds": None, "eta": None}
    return None if progress is None else progress.model_copy(update=nothing)


def _build_conditions(
    old: Sequence[Condition], decision: Decision, is_prepared: bool, generation: int, now: datetime
) -> list[Condition]:
    before = {condition.type: condition for condition in old}
    return [
        _build_condition(kind, holds, reason, message, before.get(kind), generation, now)
        for kind, holds, reason, message in _judge_conditions(decision, is_prepared)
    ]


def _judge_conditions(decision: Decision, is_prepared: bool) -> Iterator[tuple[ConditionType, bool, str, str]]:
    phase, said = decision.phase, (decision.reason, decision.message)
    is_stalled = decision.is_stalled or phase is Phase.FAILED
    is_ready = phase in (Phase.RUNNING, Phase.SUCCEEDED) and not is_stalled
    is_settled = is_ready or phase in _SETTLED or is_stalled
    yield ConditionType.READY, is_ready, *said
    yield ConditionType.RECONCILING, not is_settled, *said
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
            yield kind, True, *said
        elif kind is ConditionType.ADMITTED and phase is Phase.QUEUED:
            yield kind, False, *said
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
    """What is worth telling of the change from one status to the next."""
    return (*_tell_ended_attempt(old, new), *_tell_stall(old, new), *_tell_phase(old, new))


def _tell_ended_attempt(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    failure = new.last_failure
    if failure is None or failure == old.last_failure:
        return
    if failure.attempt is None:
        reason = "PrepareFailed"
    elif new.restarts.disruptions > old.restarts.disruptions:
        reason = "Disrupted"
    else:
        reason = "StartupTimeout" if new.restarts.startups > old.restarts.startups else "AttemptFailed"
    yield Event("Warning", reason, describe_failure(failure))


def _tell_stall(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    before, running = (find_condition(status, ConditionType.RUNNING) for status in (old, new))
    if running is not None and running.reason == STALLED and (before is None or before.reason != STALLED):
        yield Event("Warning", STALLED, running.message)


def _tell_phase(old: TrainingRunStatus, new: TrainingRunStatus) -> Iterator[Event]:
    ready = find_condition(new, ConditionType.READY)
    is_stalled = is_true(new, ConditionType.STALLED)
    is_newly_stalled = is_stalled and not is_true(old, ConditionType.STALLED)
    if ready is None or new.phase is None or (new.phase == old.phase and not is_newly_stalled):
        return
    is_evicted = new.restarts.preemptions > old.restarts.preemptions
    is_special = is_evicted or (is_newly_stalled and new.phase is not Phase.FAILED)
    name = ready.reason if is_special else new.phase.value
    yield Event("Warning" if is_stalled else "Normal", name, ready.message or ready.reason)
