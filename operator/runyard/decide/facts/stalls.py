"""Attempts that do not end by themselves but do not go on either: some pods never start, or rank 0 falls silent.

Where not all pods have started after recovery.startupTimeoutSeconds, those that have are given back: two runs that hold
a part of the nodes each would wait for each other for ever. A step that does not end is noticed by the ranks' own
watchdogs, which leave their stacks and end the attempt: a failure like any other. Where the watchdogs do not run either
(a frozen node, a stopped process), rank 0 stops answering on /progress, and that is noticed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from runyard_trainer.contract.exits import Reason
from runyard_trainer.contract.times import format_time

from runyard.api.reasons import FailureReason
from runyard.api.trainingrun import LastFailure, Recovery
from runyard.decide.facts.endings import Ending, Severity
from runyard.decide.facts.pods import Wait, find_wait, has_started, when_started
from runyard.decide.facts.remedies import find_remedy
from runyard.decide.values import Manifest

SILENCE_MARGIN_S = 60
"""Beyond stallTimeoutSeconds: the ranks' own watchdogs come first."""


def when_startup_is_over(job: Manifest | None, pods: Sequence[Manifest], recovery: Recovery) -> datetime | None:
    """Return when an attempt is given up of which not all pods have started; None where all have."""
    if job is None or sum(map(has_started, pods)) >= job["spec"]["completions"]:
        return None
    began = when_started(job)
    return began and began + timedelta(seconds=recovery.startup_timeout_seconds)


def find_startup_timeout(
    attempt: int, job: Manifest | None, pods: Sequence[Manifest], recovery: Recovery, now: datetime
) -> Ending | None:
    """Return the end of an attempt whose pods have not all started in time; None where they have, or still may."""
    deadline = when_startup_is_over(job, pods, recovery)
    if job is None or deadline is None or now < deadline:
        return None
    num_pods, num_started = job["spec"]["completions"], sum(map(has_started, pods))
    wait = find_wait(pods) or _describe_missing(num_pods - len(pods))
    message = (
        f"{num_started} of {num_pods} pods started within {recovery.startup_timeout_seconds} s "
        f"(recovery.startupTimeoutSeconds): {wait.message}"
    )
    failure = LastFailure(
        attempt=attempt,
        reason=wait.reason,
        message=message,
        remedy=find_remedy(wait.reason, message=wait.message),
        time=format_time(now),
    )
    return Ending(Severity.STARTUP, failure)


def _describe_missing(num_missing: int) -> Wait:
    if num_missing:
        return Wait(
            FailureReason.STARTUP_TIMEOUT,
            f"{num_missing} were not made: look at the Job's events (kubectl describe job), which say what refused "
            "them: a ResourceQuota, a LimitRange or an admission policy",
        )
    return Wait(FailureReason.STARTUP_TIMEOUT, "the others are still being set up; look at the events of the pods")


def when_silence_ends(silent_since: datetime | None, recovery: Recovery) -> datetime | None:
    """Return when an attempt is given up whose rank 0 has stopped answering; None where it is not to be."""
    if silent_since is None or recovery.on_stall != "Restart":
        return None
    return silent_since + timedelta(seconds=recovery.stall_timeout_seconds + SILENCE_MARGIN_S)


def find_silence(attempt: int, silent_since: datetime | None, recovery: Recovery, now: datetime) -> Ending | None:
    """Return the end of an attempt whose rank 0, which has answered before, has been silent for too long."""
    deadline = when_silence_ends(silent_since, recovery)
    if silent_since is None or deadline is None or now < deadline:
        return None
    message = (
        f"rank 0 has not answered on /progress for {(now - silent_since).total_seconds():.0f} s, and its own watchdog "
        "has not ended it: its process or node is frozen. If training went on, a NetworkPolicy keeps the operator from "
        "its port"
    )
    failure = LastFailure(attempt=attempt, rank=0, reason=Reason.STALLED, message=message, time=format_time(now))
    return Ending(Severity.FAILURE, failure)
