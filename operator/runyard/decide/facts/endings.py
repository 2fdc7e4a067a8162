"""How attempts end early: which pod was the cause, and what its end means.

    fatal        the next attempt would end the same way: the run fails
    failure      something broke: counted against recovery.maxFailures, next attempt after a while
    disruption   the pods were taken away or told to stop: counted against recovery.maxDisruptions, next attempt at once
    startup      not all pods started in time (`stalls`): held against no budget, next attempt after a longer while

A rank's death ends the whole attempt, so most pods that end are victims: they end with 75 (lost a peer) or by the
SIGTERM of the Job controller. The cause is the first that ended otherwise. Read from pods' containers: the Job's own
Failed condition comes only after the survivors' grace period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from runyard_trainer.contract.exits import ExitCode

from runyard.api.trainingrun import FATAL_EXIT_CODES, LastFailure
from runyard.decide.facts.pods import Termination, find_job_failure, is_alive, is_deleting, is_lost, read_termination
from runyard.decide.facts.remedies import find_remedy
from runyard.decide.times import format_time, parse_time
from runyard.decide.values import Manifest

SETTLE_S = 15
"""How long a pod may take to end after its rank has failed: its launcher gives the other ranks time to notice."""

MAX_LOG_LENGTH = 1200

_SIGTERM = 143
_INTERRUPTIONS = (int(ExitCode.INTERRUPTED), _SIGTERM)


class Severity(Enum):
    """What an attempt's early end means for the run."""

    FATAL = auto()
    FAILURE = auto()
    DISRUPTION = auto()
    STARTUP = auto()


@dataclass(frozen=True)
class Ending:
    """An attempt has ended early."""

    severity: Severity
    failure: LastFailure


def find_ending(attempt: int, job: Manifest | None, pods: Sequence[Manifest], now: datetime) -> Ending | None:
    """How attempt number `attempt` has ended early, or None while it goes on (or has ended well).

    Args:
        attempt: its number.
        job: its Job; None where it is gone.
        pods: those of the attempt.
        now: the time.
    """
    terminations = _bad_terminations(pods)
    if terminations:
        settled_at = when_settled(pods, now)
        return None if settled_at is not None and now < settled_at else judge(attempt, choose_cause(terminations), now)
    lost = next((pod for pod in pods if is_lost(pod, now)), None)
    if lost is not None:
        node = lost.get("spec", {}).get("nodeName", "its node")
        return _disrupted(attempt, "NodeLost", f"pod {lost['metadata']['name']} is gone with {node}", now, node)
    if job is None or is_deleting(job):
        still_saving = any(is_alive(pod, now) for pod in pods)
        return None if still_saving else _disrupted(attempt, "JobDeleted", "its Job was deleted", now)
    if find_job_failure(job) and len(pods) < job["spec"]["completions"]:
        return _disrupted(attempt, "PodDeleted", "a pod was deleted", now)
    return None


def when_settled(pods: Sequence[Manifest], now: datetime) -> datetime | None:
    """When the cause of an attempt's end counts as known, where it has to be waited for; None otherwise."""
    terminations = _bad_terminations(pods)
    if not all(end.exit_code in _INTERRUPTIONS and end.finished_at for end in terminations):
        return None
    if not terminations or not any(is_alive(pod, now) for pod in pods):
        return None
    return min(parse_time(end.finished_at) for end in terminations) + timedelta(seconds=SETTLE_S)


def has_failing_pod(pods: Sequence[Manifest]) -> bool:
    """Whether the Job controller is about to end the Job of these pods by itself."""
    return bool(_bad_terminations(pods))


def _bad_terminations(pods: Sequence[Manifest]) -> list[Termination]:
    return [end for pod in pods if (end := read_termination(pod)) and end.exit_code != 0]


def choose_cause(terminations: Sequence[Termination]) -> Termination:
    """The one that the others follow from. Times are whole seconds, so a fatal code decides between equals."""

    def rank(end: Termination) -> tuple[bool, str, bool, int]:
        return (end.exit_code in _INTERRUPTIONS, end.finished_at, end.exit_code not in FATAL_EXIT_CODES, end.index)

    return min(terminations, key=rank)


def judge(attempt: int | None, end: Termination, now: datetime) -> Ending:
    """What a pod's end means; `attempt` is None for prepare."""
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
    if end.reason == "OOMKilled":
        return end.reason
    if end.report:
        return end.report.reason
    return ExitCode(end.exit_code).reason if end.exit_code in set(ExitCode) else end.reason


def _choose_remedy(reason: str, end: Termination, *, is_prepare: bool) -> str:
    """What a report of ours says already is not said again."""
    is_said = end.report is not None and end.exit_code in FATAL_EXIT_CODES
    said = end.report.message if end.report else end.message
    return "" if is_said else find_remedy(reason, end.pod, said, is_prepare=is_prepare)


def _trim_log(end: Termination) -> str:
    """Without a report the message is the end of the log (terminationMessagePolicy)."""
    return "" if end.exit_code is None else end.message[-MAX_LOG_LENGTH:]


def _describe(end: Termination) -> str:
    if end.exit_code is None:
        return f"pod {end.pod} was taken away: {end.message or end.reason}"
    return f"pod {end.pod} ended with exit code {end.exit_code}"


def _disrupted(attempt: int, reason: str, message: str, now: datetime, node: str | None = None) -> Ending:
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
    """One line for people: where, how and what."""
    who = "prepare" if failure.attempt is None else f"attempt {failure.attempt}"
    rank = "" if failure.rank is None else f", rank {failure.rank}"
    node = f" on {failure.node}" if failure.node else ""
    code = "" if failure.exit_code is None else f", exit code {failure.exit_code}"
    remedy = f". What to do: {failure.remedy}" if failure.remedy else ""
    return f"{who}{rank}{node} ended with {failure.reason}{code}: {failure.message.rstrip('.')}{remedy}"
