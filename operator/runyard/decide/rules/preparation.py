"""The rules of preparation: the Job that checks the output and makes tokens of the text, before the first attempt."""

from __future__ import annotations

from runyard.api.reasons import ConditionReason, FailureReason
from runyard.api.trainingrun import ANNOTATION_ASKED, LastFailure, Phase, Prepare
from runyard.decide import manifests
from runyard.decide.facts import pods
from runyard.decide.facts.endings import Severity, classify_termination, describe_failure
from runyard.decide.rules.lifecycle import describe_wait, fail
from runyard.decide.situation import Situation, build_delete
from runyard.decide.values import Create, Decision


def has_failed_to_prepare(situation: Situation) -> Decision | None:
    """Fail a run whose preparation ended with a fatal error, or failed too often."""
    job = situation.prepare_job
    if situation.is_prepared or job is None:
        return None
    ends = [end for pod in situation.prepare_pods if (end := pods.read_termination(pod)) and end.exit_code != 0]
    endings = [classify_termination(None, end, situation.now) for end in ends]
    fatal = next((ending for ending in endings if ending.severity is Severity.FATAL), None)
    job_failure = pods.find_job_failure(job)
    if fatal is not None:
        failure = fatal.failure
    elif job_failure is None:
        return None
    elif endings:
        failure = endings[-1].failure
    else:
        failure = LastFailure(reason=job_failure["reason"], message=job_failure.get("message", ""))
    return fail(situation, failure.reason, describe_failure(failure), failure)


def has_changed_preparation(situation: Situation) -> Decision | None:
    """Delete the prepare Job where `spec.prepare` has changed: a Job's pods cannot change, so a new one is made."""
    job = situation.prepare_job
    if situation.is_prepared or job is None or not pods.is_live(job):
        return None
    made_for = job["metadata"].get("annotations", {}).get(ANNOTATION_ASKED, manifests.format_prepare(Prepare()))
    if made_for == manifests.format_prepare(situation.spec.prepare):
        return None
    message = "spec.prepare has changed: preparation starts again"
    return Decision(Phase.PREPARING, ConditionReason.PREPARING, message, actions=(build_delete(job),))


def is_preparing(situation: Situation) -> Decision | None:
    """Follow the prepare Job. Delete it where its pod is gone with its node, for which it would wait."""
    job = situation.prepare_job
    if situation.is_prepared or job is None:
        return None
    if any(pods.is_lost(pod, situation.now) for pod in situation.prepare_pods) and pods.is_live(job):
        message = "the node that prepared the data is gone: starting again"
        return Decision(Phase.PREPARING, FailureReason.NODE_LOST, message, actions=(build_delete(job),))
    reason, message = describe_wait(situation, situation.prepare_pods) or _describe_preparation(situation)
    return Decision(Phase.PREPARING, reason, message, requeue_at=pods.when_next_is_lost(situation.prepare_pods))


def _describe_preparation(situation: Situation) -> tuple[str, str]:
    ends = [end for pod in situation.prepare_pods if (end := pods.read_termination(pod)) and end.exit_code != 0]
    if ends and not any(map(pods.is_running, situation.prepare_pods)):
        failure = classify_termination(None, ends[-1], situation.now).failure
        return ConditionReason.RETRYING, f"{describe_failure(failure)}. It is tried again"
    return ConditionReason.PREPARING, "checking the output and making tokens of the text"


def should_prepare(situation: Situation) -> Decision | None:
    """Create the prepare Job."""
    if situation.is_prepared:
        return None
    job = Create(manifests.build_prepare_job(situation.run, situation.spec, situation.settings))
    return Decision(
        Phase.PREPARING,
        ConditionReason.PREPARING,
        "checking the output and making tokens of the text",
        actions=(Create(manifests.build_config_map(situation.run, situation.recipe)), job),
    )
