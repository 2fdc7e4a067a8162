"""The rule of an attempt's end: which budget it counts against, and when and how the next attempt starts.

The attempt after a failure starts at once, as what broke is mostly gone with the process; only after the second failure
without a new checkpoint does it wait, longer each time.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import NamedTuple

from runyard_trainer.contract.times import format_time, parse_time

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import LastFailure, Phase
from runyard.decide.facts import pods, stalls
from runyard.decide.facts.endings import Ending, Severity, describe_failure, find_ending
from runyard.decide.facts.placement import blame_node, shrink
from runyard.decide.rules.lifecycle import fail
from runyard.decide.situation import Situation
from runyard.decide.status import count, describe_start
from runyard.decide.values import Decision


class Backoff(NamedTuple):
    """How long the next attempt waits: doubling from `first_s` to `max_s`."""

    first_s: float
    max_s: float
    jitter: float
    """The share of the wait that is added at most."""


FAILURE_BACKOFF = Backoff(first_s=1, max_s=60, jitter=0.25)
"""From the second failure in a row on."""

STARTUP_BACKOFF = Backoff(first_s=15, max_s=300, jitter=1)
"""With much jitter: two runs that could not both start must not come back together."""


def has_ended_early(situation: Situation) -> Decision | None:
    """Settle the newest attempt, once, where it is over and the run is not. Another starts only once this is stored."""
    if not situation.is_attempting:
        return None
    ending = _find_ending(situation)
    if ending is None:
        return None
    match ending.severity:
        case Severity.DISRUPTION:
            return _settle_disruption(situation, ending.failure)
        case Severity.STARTUP:
            return _settle_startup(situation, ending.failure)
    return _settle_failure(situation, ending)


def _find_ending(situation: Situation) -> Ending | None:
    attempt, job, its_pods = situation.attempt, situation.attempt_job, situation.attempt_pods
    recovery, now = situation.recovery, situation.now
    return (
        find_ending(attempt, job, its_pods, now)
        or stalls.find_startup_timeout(attempt, job, its_pods, recovery, now)
        or stalls.find_silence(attempt, situation.silent_since, recovery, now)
    )


def _settle_startup(situation: Situation, failure: LastFailure) -> Decision:
    """Settle an attempt that could not start. The next waits, unless it asks for fewer nodes: these have room."""
    restarts = count(situation.known.restarts, startups=1)
    before, num_scheduled = situation.attempt_spec.compute.nodes, sum(map(pods.is_scheduled, situation.attempt_pods))
    nodes = shrink(situation.spec.compute, before, num_scheduled)
    pause = choose_backoff(situation.run.uid, situation.attempt, restarts.startups, STARTUP_BACKOFF)
    when = None if nodes is not None and nodes < before else situation.now + pause
    decision = _recover(situation, failure, ConditionReason.STARTUP_TIMEOUT, when, nodes)
    return _with_changes(decision, restarts=restarts)


def _settle_disruption(situation: Situation, failure: LastFailure) -> Decision:
    restarts = count(situation.known.restarts, disruptions=1)
    limit = situation.spec.recovery.max_disruptions
    if restarts.disruptions > limit:
        message = (
            f"disrupted {restarts.disruptions} times, recovery.maxDisruptions is {limit}: {describe_failure(failure)}"
        )
        decision = fail(situation, ConditionReason.DISRUPTION_BUDGET_EXCEEDED, message, failure)
        return _with_changes(decision, restarts=restarts)
    decision = _recover(situation, failure, ConditionReason.DISRUPTED, when=None)
    blame = blame_node(situation.known, Severity.DISRUPTION, failure)
    return _with_changes(decision, restarts=restarts, **blame)


def _settle_failure(situation: Situation, ending: Ending) -> Decision:
    failure, restarts = ending.failure, count(situation.known.restarts, failures=1)
    limit, since = situation.spec.recovery.max_failures, restarts.failures_since_checkpoint
    if ending.severity is Severity.FATAL:
        decision = fail(situation, failure.reason, describe_failure(failure), failure)
    elif since > limit:
        since_when = "since the last checkpoint" if situation.known.checkpoint else "without a checkpoint"
        message = f"failed {since} times {since_when}, recovery.maxFailures is {limit}: {describe_failure(failure)}"
        decision = fail(situation, ConditionReason.FAILURE_BUDGET_EXCEEDED, message, failure)
    else:
        pause = choose_backoff(situation.run.uid, situation.attempt, since - 1, FAILURE_BACKOFF)
        when = situation.now + pause if since > 1 else None
        decision = _recover(situation, failure, ConditionReason.ATTEMPT_FAILED, when)
    return _with_changes(decision, restarts=restarts, **blame_node(situation.known, ending.severity, failure))


def _recover(
    situation: Situation, failure: LastFailure, reason: ConditionReason, when: datetime | None, nodes: int | None = None
) -> Decision:
    checkpoint = situation.known.checkpoint
    next_time = when and format_time(when)
    changes = {
        "ended_attempt": situation.attempt,
        "last_failure": failure,
        "next_attempt_time": next_time,
        "nodes": nodes,
    }
    shape = f", with {nodes} of {situation.spec.compute.nodes} nodes" if nodes else ""
    message = f"{describe_failure(failure)}. The next attempt goes on {describe_start(checkpoint)}{shape}"
    return Decision(
        Phase.RECOVERING, reason, message, changes, requeue_at=parse_time(next_time) if next_time else situation.now
    )


def _with_changes(decision: Decision, **changes: object) -> Decision:
    return Decision(
        decision.phase, decision.reason, decision.message, decision.changes | changes, requeue_at=decision.requeue_at
    )


def choose_backoff(run_uid: str, attempt: int, times: int, backoff: Backoff) -> timedelta:
    """Choose the wait after so many ends in a row; the jitter keeps runs apart that ended together."""
    jitter = hashlib.sha256(f"{run_uid}/{attempt}/backoff".encode()).digest()[0] / 255 * backoff.jitter
    return timedelta(seconds=min(backoff.max_s, backoff.first_s * 2.0 ** min(times - 1, 10)) * (1 + jitter))
