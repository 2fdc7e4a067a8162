"""How attempts end early: which pod was the cause, and what its end means.

    fatal        the next attempt would end the same way: the run fails
    failure      something broke: counted against recovery.maxFailures, next attempt after a while
    disruption   the pods were taken away or told to stop: counted against recovery.maxDisruptions, next attempt at once
    startup      not all pods started in time (`stalls`): counted against no budget, next attempt after a longer while

The death of one rank ends the whole attempt, so most pods that end are victims: they end with 75 (lost a peer) or by
the SIGTERM of the Job controller. The cause is the first that ended otherwise. It is read from the pods' containers:
the Job's own Failed condition comes only after the survivors' grace period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from runyard_trainer.contract.exits import FATAL_EXIT_CODES, ExitCode, Reason, find_reason
from runyard_trainer.contract.times import format_time, parse_time

from runyard.api.reasons import FailureReason
from runyard.api.trainingrun import LastFailure
from runyard.decide.facts.pods import Termination, find_job_failure, is_alive, is_deleting, is_lost, read_termination
from runyard.decide.facts.remedies import find_remedy
from runyard.decide.values import Manifest

CAUSE_KNOWN_AFTER_S = 15
"""How long the pod that caused an attempt's end may outlive its victims: its launcher gives the other ranks time."""

MAX_LOG_LENGTH = 1200

_SIGTERM = 143
_INTERRUPTIONS = (int(ExitCode.INTERRUPTED), _SIGTERM)


class Severity(Enum):
    """The meaning of an attempt's early end for the run, as at the top of this file."""

    FATAL = auto()
    FAILURE = auto()
    DISRUPTION = auto()
    STARTUP = auto()


@dataclass(frozen=True)
class Ending:
    """An attempt's early end."""

    severity: Severity
    failure: LastFailure


def find_ending(attempt: int, job: Manifest | None, pods: Sequence[Manifest], now: datetime) -> Ending | None:
    """Return how an attempt has ended early; None while it goes on, or where it has ended well.

    Args:
        attempt: its number.
        job: its Job; None where it is gone.
        pods: those of the attempt.
        now: the time.
    """
    terminations = _bad_terminations(pods)
    if terminations:
        known_at = when_cause_is_known(pods, now)
        if known_at is not None and now < known_at:
            return None
        return classify_termination(attempt, choose_cause(terminations), now)
    lost = next((pod for pod in pods if is_lost(pod, now)), None)
    if lost is not None:
        node = lost.get("spec", {}).get("nodeName", "its node")
        return _disrupted(
            attempt, FailureReason.NODE_LOST, f"pod {lost['metadata']['name']} is gone with {node}", now, node
        )
    if job is None or is_deleting(job):
        still_saving = any(is_alive(pod, now) for pod in pods)
        return None if still_saving else _disrupted(attempt, FailureReason.JOB_DELETED, "its Job was deleted", now)
    if find_job_failure(job) and len(pods) < job["spec"]["completions"]:
        return _disrupted(attempt, FailureReason.POD_DELETED, "a pod was deleted", now)
    return None


def when_cause_is_known(pods: Sequence[Manifest], now: datetime) -> datetime | None:
    """Return until when to wait for the pod that caused the end, as only victims have ended; None where not to."""
    terminations = _bad_terminations(pods)
    if not all(end.exit_code in _INTERRUPTIONS and end.finished_at for end in terminations):
        return None
    if not terminations or not any(is_alive(pod, now) for pod in pods):
        return None
    return min(parse_time(end.finished_at) for end in terminations) + timedelta(seconds=CAUSE_KNOWN_AFTER_S)


def has_failing_pod(pods: Sequence[Manifest]) -> bool:
    """Return whether a pod has failed: the Job controller then ends its Job by itself."""
    return bool(_bad_terminations(pods))


def _bad_terminations(pods: Sequence[Manifest]) -> list[Termination]:
    return [end for pod in pods if (end := read_termination(pod)) and end.exit_code != 0]


def choose_cause(terminations: Sequence[Termination]) -> Termination:
    """Return the one that the others follow from. Times are whole seconds, so a fatal code decides between equals."""

    def rank(end: Termination) -> tuple[bool, str, bool, int]:
        return (end.exit_code in _INTERRUPTIONS, end.finished_at, end.exit_code not in FATAL_EXIT_CODES, end.index)

    return min(terminations, key=rank)


def classify_termination(attempt: int | None, end: Termination, now: datetime) -> Ending:
    """Return what a pod's end means for the run; `attempt` is None for prepare."""
    severity = _severity_of(end)
    report = end.report
    reason = end.disruption if severity is Severity.DISRUPTION and end.disruption else _reason_of(end)
    failure = LastFailure(
        attempt=attempt,
        rank=report.rank if report else None,
        node=end.node,
        exit_code=end.exit_code,
        reason=reason,
        message=(report.message if report else "") or _describe(end),
        remedy=_choose_remedy(reason, end, is_prepare=attempt is None),
        log_tail=report.log_tail if report else _trim_log(end),
        time=end.finished_at or format_time(now),
    )
    return Ending(severity, failure)


def _severity_of(end: Termination) -> Severity:
    if end.exit_code in FATAL_EXIT_CODES:
        return Severity.FATAL
    if end.disruption or end.exit_code in _INTERRUPTIONS:
        return Severity.DISRUPTION
    return Severity.FAILURE


def _reason_of(end: Termination) -> str:
    if end.reason == Reason.OOM_KILLED:
        return end.reason
    if end.report:
        return end.report.reason
    return find_reason(end.exit_code) or end.reason


def _choose_remedy(reason: str, end: Termination, *, is_prepare: bool) -> str:
    """Find what to do; empty where the trainer has reported a fatal error, whose message says it."""
    if end.report is not None and end.exit_code in FATAL_EXIT_CODES:
        return ""
    message = end.report.message if end.report else end.message
    return find_remedy(reason, end.pod, message, is_prepare=is_prepare)


def _trim_log(end: Termination) -> str:
    """Cut the end of the log, which the termination message is without a report (terminationMessagePolicy)."""
    return "" if end.exit_code is None else end.message[-MAX_LOG_LENGTH:]


def _describe(end: Termination) -> str:
    if end.exit_code is None:
        return f"pod {end.pod} was taken away: {end.message or end.reason}"
    return f"pod {end.pod} ended with exit code {end.exit_code}"


def _disrupted(attempt: int, reason: FailureReason, message: str, now: datetime, node: str | None = None) -> Ending:
    failure = LastFailure(
        attempt=attempt,
        node=node,
        reason=reason,
        message=message,
        remedy=find_remedy(reason),
        time=format_time(now),
    )
    return Ending(Severity.DISRUPTION, failure)


def describe_failure(failure: LastFailure) -> str:
    """Describe in one line: `attempt 2, rank 0 on node-1 ended with OOMKilled, exit code 137: ...`."""
    who = "prepare" if failure.attempt is None else f"attempt {failure.attempt}"
    rank = "" if failure.rank is None else f", rank {failure.rank}"
    node = f" on {failure.node}" if failure.node else ""
    code = "" if failure.exit_code is None else f", exit code {failure.exit_code}"
    remedy = f". What to do: {failure.remedy}" if failure.remedy else ""
    return f"{who}{rank}{node} ended with {failure.reason}{code}: {failure.message.rstrip('.')}{remedy}"
