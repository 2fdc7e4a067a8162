"""The rules of a run's life, one function each: `Situation` in, `Decision` out, or None where a rule does not apply.

Their order is in `plan.RULES`. A rule's reason and message become those of the conditions, so each message says what
is wrong and what to do.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from runyard_trainer.contract.exits import Reason
from runyard_trainer.contract.times import format_time, parse_time

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import KIND, ConditionType, LastFailure, Phase, Role
from runyard.decide import manifests
from runyard.decide.facts import limits, pods, stalls
from runyard.decide.facts.endings import when_cause_is_known
from runyard.decide.facts.remedies import find_remedy
from runyard.decide.situation import Situation, build_delete
from runyard.decide.status import find_condition
from runyard.decide.values import Action, Create, Decision, Delete, Manifest

_STAGES = {
    "writing": (ConditionReason.WRITING_REPLAY, "the model writes the text to replay"),
    "evaluating": (ConditionReason.EVALUATING, "measuring the losses on held-out text"),
    "training": (ConditionReason.TRAINING, "training"),
    "exporting": (ConditionReason.EXPORTING, "exporting the model"),
    "finished": (ConditionReason.EXPORTING, "the model is exported"),
}


# ------------------------------------------------------------------------------------------------- what ends everything


def is_finished(situation: Situation) -> Decision | None:
    """Keep a run finished that has succeeded or failed once, also after its Jobs are gone."""
    stored = situation.run.status
    for kind, phase in ((ConditionType.SUCCEEDED, Phase.SUCCEEDED), (ConditionType.FAILED, Phase.FAILED)):
        condition = find_condition(stored, kind)
        if condition is not None and condition.status == "True":
            actions, requeue_at = _expire(situation, parse_time(condition.last_transition_time))
            return Decision(phase, condition.reason, condition.message, actions=actions, requeue_at=requeue_at)
    return None


def _expire(situation: Situation, finished_at: datetime) -> tuple[tuple[Action, ...], datetime | None]:
    """Delete the run once its ttlSecondsAfterFinished is over; its Jobs go with it."""
    spec, run = situation.run.spec, situation.run
    if spec is None or spec.ttl_seconds_after_finished is None:
        return (), None
    expires_at = finished_at + timedelta(seconds=spec.ttl_seconds_after_finished)
    if situation.now < expires_at:
        return (), expires_at
    return (Delete(KIND, run.name, run.uid, run.resource_version),), None


def has_invalid_spec(situation: Situation) -> Decision | None:
    """Fail a run whose spec this operator cannot read: the CRD is another version's."""
    if situation.run.spec is not None:
        return None
    message = f"{situation.run.spec_error}. Delete the run and create it anew with this mended"
    return fail(situation, Reason.SPEC_ERROR, message)


def has_succeeded(situation: Situation) -> Decision | None:
    """Finish a run whose newest attempt ended with 0 on every rank: the export is committed."""
    job = situation.attempt_job
    if job is None or not pods.is_complete(job):
        return None
    report, progress = situation.read_rank_0_report(), situation.known.progress
    result = report.result if report else None
    return Decision(
        Phase.SUCCEEDED,
        Reason.COMPLETED,
        f"the model is at {result.uri if result else situation.spec.output.uri}",
        changes={
            "ended_attempt": situation.attempt,
            "next_attempt_time": None,
            "result": result,
            "progress": progress and progress.model_copy(update={"step": progress.total_steps}),
        },
    )


def fail(situation: Situation, reason: str, message: str, failure: LastFailure | None = None) -> Decision:
    """Build the decision that the run has failed; what still runs of it is stopped."""
    changes = {
        "ended_attempt": situation.attempt,
        "next_attempt_time": None,
        "last_failure": failure or situation.known.last_failure,
    }
    return Decision(Phase.FAILED, reason, message, changes)


# ---------------------------------------------------------------------------------------------- what is in the way


def lacks_a_name(situation: Situation) -> Decision | None:
    """Wait while somebody else's object has a name that this run needs."""
    conflicts = situation.observed.conflicts
    if not conflicts:
        return None
    message = (
        f"{', '.join(conflicts)} in namespace {situation.run.namespace} belongs to someone else: delete or rename it, "
        "or delete this run and create it under another name"
    )
    return Decision(situation.known.phase or Phase.PENDING, ConditionReason.NAME_CONFLICT, message, is_stalled=True)


def could_not_act(situation: Situation) -> Decision | None:
    """Show what the API server has refused; it is tried again."""
    errors = situation.observed.apply_errors
    if not errors:
        return None
    return Decision(
        situation.known.phase or Phase.PENDING, ConditionReason.APPLY_FAILED, f"{'; '.join(errors)}. Trying again"
    )


# ------------------------------------------------------------------------------------------------------------- suspend


def is_told_to_suspend(situation: Situation) -> Decision | None:
    """Settle the attempt of a run that is to be suspended, at no cost to a budget; the next pass deletes its Job."""
    if not (situation.spec.suspend and situation.is_attempting):
        return None
    changes = {"ended_attempt": situation.attempt, "next_attempt_time": None, "nodes": None}
    return Decision(
        Phase.SUSPENDING,
        ConditionReason.SUSPENDING,
        _SAVING.format(situation.attempt),
        changes,
        requeue_at=situation.now,
    )


_SAVING = "attempt {} saves a checkpoint and stops"


def is_suspended(situation: Situation) -> Decision | None:
    """Keep a run suspended: nothing runs, or what runs is about to end."""
    if not situation.spec.suspend:
        return None
    job = situation.prepare_job
    actions = (build_delete(job),) if job is not None and pods.is_live(job) else ()
    alive = [pod for pod in situation.observed.pods if pods.is_alive(pod, situation.now)]
    if alive or actions:
        attempt = max(map(pods.attempt_of, alive), default=0)
        message = _SAVING.format(attempt) if attempt else "preparation stops"
        return Decision(
            Phase.SUSPENDING,
            ConditionReason.SUSPENDING,
            message,
            actions=actions,
            requeue_at=pods.when_next_is_lost(alive),
        )
    return Decision(Phase.SUSPENDED, ConditionReason.SUSPENDED, "nothing runs; set spec.suspend to false to go on")


# ------------------------------------------------------------------------------------------------------------- attempts


def has_reached_a_limit(situation: Situation) -> Decision | None:
    """Fail a run that has taken all that `spec.limits` lets it take."""
    excess = limits.find_excess(situation.spec.limits, situation.known, situation.now)
    return None if excess is None else fail(situation, excess.reason, excess.message)


def is_attempting(situation: Situation) -> Decision | None:
    """Follow an attempt that goes on."""
    if not situation.is_attempting:
        return None
    phase, reason, message = _describe_attempt(situation)
    its_pods, recovery = situation.attempt_pods, situation.recovery
    moments = (
        pods.when_next_is_lost(its_pods),
        when_cause_is_known(its_pods, situation.now),
        stalls.when_startup_is_over(situation.attempt_job, its_pods, recovery),
        stalls.when_silence_ends(situation.silent_since, recovery),
        _find_next_limit(situation),
    )
    return Decision(phase, reason, message, requeue_at=min(filter(None, moments), default=None))


def _find_next_limit(situation: Situation) -> datetime | None:
    return limits.find_next_limit(situation.spec.limits, situation.known, situation.num_held_gpus, situation.now)


def _describe_attempt(situation: Situation) -> tuple[Phase, str, str]:
    progress, attempt = situation.observed.progress, situation.attempt
    if progress is not None and progress.attempt == attempt and progress.stage in _STAGES:
        if progress.stalled_since is not None:
            return Phase.RUNNING, Reason.STALLED, _describe_stall(situation, progress.stalled_since)
        reason, doing = _STAGES[progress.stage]
        return Phase.RUNNING, reason, f"attempt {attempt}: {doing}"
    if situation.was_running is not None:
        return Phase.RUNNING, situation.was_running.reason, situation.was_running.message
    wait = describe_wait(situation, situation.attempt_pods)
    if wait is not None:
        return Phase.STARTING, *wait
    num_running = sum(map(pods.is_running, situation.attempt_pods))
    return (
        Phase.STARTING,
        ConditionReason.STARTING,
        f"attempt {attempt}: {num_running} of {situation.attempt_spec.compute.nodes} pods run",
    )


def _describe_stall(situation: Situation, since: str) -> str:
    where = f"{situation.recipe.output.uri.rstrip('/')}/stacks/attempt-{situation.attempt}/"
    what_next = (
        "the next attempt starts from the last checkpoint"
        if situation.recovery.on_stall == "Restart"
        else "recovery.onStall is Notify, so it is left as it is: delete one of its pods to have it restarted"
    )
    return f"attempt {situation.attempt}: no step has ended since {since}; stacks of every rank: {where}; {what_next}"


def describe_wait(situation: Situation, waiting: list[Manifest]) -> tuple[str, str] | None:
    """Describe why one of these pods does not start, and what to do; None where none waits for a person."""
    wait = pods.find_wait(waiting)
    if wait is None:
        return None
    secret = situation.recipe.storage.secret_name
    if secret and "secret" in wait.message and secret in wait.message:
        hint = (
            f". Create the Secret {secret} in namespace {situation.run.namespace} with the keys AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY: the pod starts by itself then"
        )
        return wait.reason, wait.message + hint
    is_prepare = any(pods.role_of(pod) == Role.PREPARE for pod in waiting)
    remedy = find_remedy(wait.reason, message=wait.message, is_prepare=is_prepare)
    return wait.reason, f"{wait.message.rstrip('.')}. What to do: {remedy}" if remedy else wait.message


# --------------------------------------------------------------------------------------------------------- next attempt


def is_backing_off(situation: Situation) -> Decision | None:
    """Wait for the time of the next attempt after a failure."""
    text = situation.known.next_attempt_time
    if text is None or parse_time(text) <= situation.now:
        return None
    ready = find_condition(situation.run.status, ConditionType.READY)
    reason, message = (ready.reason, ready.message) if ready else (ConditionReason.ATTEMPT_FAILED, "")
    return Decision(Phase.RECOVERING, reason, message, requeue_at=parse_time(text))


def is_stopping(situation: Situation) -> Decision | None:
    """Wait for the pods of an attempt that was suspended: the next one would fence out what they still save."""
    failure, ended = situation.known.last_failure, situation.run.status.ended_attempt
    was_suspended = failure is None or failure.attempt != ended
    alive = [pod for pod in situation.train_pods if pods.is_alive(pod, situation.now)]
    if not (was_suspended and alive):
        return None
    return Decision(
        Phase.SUSPENDING, ConditionReason.SUSPENDING, _SAVING.format(ended), requeue_at=pods.when_next_is_lost(alive)
    )


def should_start_attempt(situation: Situation) -> Decision:
    """Start the next attempt, as nothing is in the way."""
    attempt = situation.attempt + 1
    job = Create(
        manifests.build_train_job(
            situation.run, situation.attempt_spec, situation.settings, attempt, situation.known.avoided_nodes
        )
    )
    config_map = Create(manifests.build_config_map(situation.run, situation.recipe))
    actions = (config_map, Create(manifests.build_service(situation.run)), job)
    changes = {
        "attempt": attempt,
        "next_attempt_time": None,
        "start_time": situation.known.start_time or format_time(situation.now),
    }
    return Decision(
        Phase.STARTING, ConditionReason.STARTING, f"attempt {attempt}: pods are being made", changes, actions
    )
