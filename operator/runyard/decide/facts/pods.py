"""Facts of single Jobs and Pods, as read from the API server. Nothing here knows budgets or phases of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from runyard_trainer.contract.exits import ExitCode, Reason
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.contract.times import parse_time

from runyard.api.reasons import FailureReason
from runyard.api.trainingrun import CONTAINER_NAME, LABEL_ATTEMPT, LABEL_ROLE, LABEL_RUN_UID
from runyard.decide.values import Manifest

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

LOST_AFTER_S = 10
"""Past the end of its grace period a pod that still seems to run is on a node that is gone."""

_SIGNALLED = 128
_MENDABLE_WAITS = {
    "CreateContainerConfigError": FailureReason.CREATE_CONTAINER_CONFIG_ERROR,
    "CreateContainerError": FailureReason.CREATE_CONTAINER_ERROR,
    "ErrImageNeverPull": FailureReason.IMAGE_PULL,
    "ErrImagePull": FailureReason.IMAGE_PULL,
    "ImageInspectError": FailureReason.IMAGE_PULL,
    "ImagePullBackOff": FailureReason.IMAGE_PULL,
    "InvalidImageName": FailureReason.IMAGE_PULL,
}
"""The kubelet's reason to ours. One of ours stands for several that alternate while the kubelet tries again."""


@dataclass(frozen=True)
class Termination:
    """The end of a pod."""

    pod: str
    index: int
    """Its completion index."""
    node: str | None
    exit_code: int | None
    """None where the pod was evicted, so that no container is left to have one."""
    reason: str
    """The container's, or the pod's: Error, OOMKilled, Evicted..."""
    message: str
    """The termination message where it is no report, or the message of the pod's status."""
    finished_at: str
    """RFC 3339; empty where unknown."""
    disruption: str | None
    """Why the pod was taken away; None where it ended by itself."""
    report: PodReport | None


@dataclass(frozen=True)
class Wait:
    """A reason for which a pod does not start, and which a person can mend."""

    reason: str
    message: str


# ----------------------------------------------------------------------------------------------------------------- Jobs


def role_of(manifest: Manifest) -> str | None:
    """Return what a Job or Pod is for."""
    role: str | None = manifest["metadata"]["labels"].get(LABEL_ROLE)
    return role


def run_uid_of(manifest: Manifest) -> str | None:
    """Return the UID of the run that a Job or Pod belongs to."""
    uid: str | None = manifest["metadata"]["labels"].get(LABEL_RUN_UID)
    return uid


def attempt_of(manifest: Manifest) -> int:
    """Return the attempt that a Job or Pod belongs to; 0 for none."""
    return int(manifest["metadata"]["labels"].get(LABEL_ATTEMPT, "0"))


def index_of(pod: Manifest) -> int:
    """Return the pod's completion index, which is the number of its node within the attempt."""
    return int(pod["metadata"]["labels"].get(INDEX_LABEL, "0"))


def is_complete(job: Manifest) -> bool:
    """Return whether all its pods ended with 0."""
    return find_condition(job, "Complete") is not None


def find_job_failure(job: Manifest) -> Manifest | None:
    """Return the condition by which the Job has failed or is about to."""
    return find_condition(job, "Failed") or find_condition(job, "FailureTarget")


def is_deleting(manifest: Manifest) -> bool:
    """Return whether somebody has deleted it; it may take a while to go."""
    return "deletionTimestamp" in manifest["metadata"]


def is_live(job: Manifest) -> bool:
    """Return whether the Job runs pods, or would make new ones if they went away."""
    ends = ("Complete", "SuccessCriteriaMet", "Failed", "FailureTarget")
    return not is_deleting(job) and not any(find_condition(job, end) for end in ends)


def pods_of(job: Manifest, pods: Iterable[Manifest]) -> list[Manifest]:
    """Return those that the Job controls."""
    return [pod for pod in pods if job["metadata"]["uid"] in _owner_uids(pod)]


def _owner_uids(pod: Manifest) -> Iterator[str]:
    for owner in pod["metadata"].get("ownerReferences", []):
        yield owner["uid"]


# ----------------------------------------------------------------------------------------------------------------- pods


def read_termination(pod: Manifest) -> Termination | None:
    """Return how the pod ended, or None while it has not. Its container's end is known before the pod's."""
    status = pod.get("status", {})
    ended = _container_state(pod).get("terminated")
    if ended is None and status.get("phase") != "Failed":
        return None
    source = ended or status
    report = _parse_report(source.get("message"))
    exit_code = ended["exitCode"] if ended else None
    return Termination(
        pod=pod["metadata"]["name"],
        index=index_of(pod),
        node=pod.get("spec", {}).get("nodeName"),
        exit_code=exit_code,
        reason=source.get("reason", Reason.ERROR),
        message="" if report else source.get("message", ""),
        finished_at=(ended or {}).get("finishedAt") or "",
        disruption=_find_disruption(pod, ended, report),
        report=report,
    )


def is_over(pod: Manifest) -> bool:
    """Return whether its container does not run, and never will again."""
    return _container_state(pod).get("terminated") is not None or _phase(pod) in ("Succeeded", "Failed")


def is_running(pod: Manifest) -> bool:
    """Return whether its container runs."""
    return _container_state(pod).get("running") is not None


def has_started(pod: Manifest) -> bool:
    """Return whether its container runs or has run."""
    return is_running(pod) or is_over(pod)


def is_scheduled(pod: Manifest) -> bool:
    """Return whether it has a node."""
    return bool(pod["spec"].get("nodeName"))


def when_started(job: Manifest) -> datetime | None:
    """Return when the Job began to make pods; None while it may not."""
    text = job.get("status", {}).get("startTime")
    return parse_time(text) if text else None


def when_lost(pod: Manifest) -> datetime | None:
    """Return from when on a pod that is being deleted counts as gone with its node; None where it is not being deleted.

    A pod that is told to stop saves within its grace period, and a next attempt that began meanwhile would fence that
    save out. Where its node does not answer, waiting gains nothing.
    """
    if not is_deleting(pod):
        return None
    deadline = parse_time(pod["metadata"]["deletionTimestamp"])  # of the request, plus the grace period
    taint = find_condition(pod, "DisruptionTarget")
    is_unreachable = taint is not None and taint.get("reason") == "DeletionByTaintManager"
    ready = find_condition(pod, "Ready", status="False")
    if is_unreachable and ready is not None:
        return deadline - timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds", 0))
    return deadline + timedelta(seconds=LOST_AFTER_S)


def is_lost(pod: Manifest, now: datetime) -> bool:
    """Return whether the pod is gone with its node."""
    moment = when_lost(pod)
    return not is_over(pod) and moment is not None and moment <= now


def list_times(pod: Manifest) -> Iterator[str]:
    """Return each time in its conditions and containers, RFC 3339."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or []:
        if time := condition.get("lastTransitionTime"):
            yield time
    for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for container in status.get(kind) or []:
            state = container.get("state", {})
            for phase, name in (("running", "startedAt"), ("terminated", "startedAt"), ("terminated", "finishedAt")):
                if time := (state.get(phase) or {}).get(name):
                    yield time


def is_alive(pod: Manifest, now: datetime) -> bool:
    """Return whether its container runs or may yet."""
    return not is_over(pod) and not is_lost(pod, now)


def when_next_is_lost(pods: Iterable[Manifest]) -> datetime | None:
    """Return when the next of these pods will count as lost, unless it ends before."""
    return min((moment for pod in pods if not is_over(pod) and (moment := when_lost(pod))), default=None)


def find_wait(pods: Iterable[Manifest]) -> Wait | None:
    """Return the first reason for which a pod waits and which a person can mend."""
    return next((wait for pod in pods if (wait := _read_wait(pod))), None)


def _read_wait(pod: Manifest) -> Wait | None:
    name = pod["metadata"]["name"]
    waiting = _container_state(pod).get("waiting") or {}
    if waiting.get("reason") in _MENDABLE_WAITS:
        reason = _MENDABLE_WAITS[waiting["reason"]]
        return Wait(reason, f"pod {name} cannot start: {waiting.get('message') or waiting['reason']}")
    unscheduled = find_condition(pod, "PodScheduled", status="False")
    if unscheduled:
        reason = unscheduled.get("reason", FailureReason.UNSCHEDULABLE)
        return Wait(reason, f"no node takes pod {name}: {unscheduled.get('message') or reason}")
    return None


def _parse_report(message: str | None) -> PodReport | None:
    try:
        return PodReport.model_validate_json(message or "")
    except ValidationError:
        return None


def _find_disruption(pod: Manifest, ended: dict[str, Any] | None, report: PodReport | None) -> str | None:
    target = find_condition(pod, "DisruptionTarget")
    if target:
        return str(target.get("reason", FailureReason.DISRUPTION_TARGET))
    if ended is None:
        return str(pod["status"].get("reason", FailureReason.POD_FAILED))
    if ended.get("reason") == FailureReason.CONTAINER_STATUS_UNKNOWN:
        return FailureReason.CONTAINER_STATUS_UNKNOWN
    return FailureReason.POD_DELETED if _was_stopped(pod, ended, report) else None


def _was_stopped(pod: Manifest, ended: dict[str, Any], report: PodReport | None) -> bool:
    """Return whether the pod was told to stop before it ended, and did not fail by itself meanwhile.

    A failure of its own would have left a report.
    """
    if not is_deleting(pod) or ended.get("reason") == Reason.OOM_KILLED:
        return False
    grace = timedelta(seconds=pod["metadata"].get("deletionGracePeriodSeconds") or 0)
    asked_at = parse_time(pod["metadata"]["deletionTimestamp"]) - grace
    if ended.get("finishedAt") and parse_time(ended["finishedAt"]) < asked_at:
        return False
    return ended["exitCode"] == ExitCode.INTERRUPTED or (ended["exitCode"] > _SIGNALLED and report is None)


def _container_state(pod: Manifest) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or []
    states: Iterator[dict[str, Any]] = (each.get("state", {}) for each in statuses if each["name"] == CONTAINER_NAME)
    return next(states, {})


def _phase(pod: Manifest) -> str | None:
    phase: str | None = pod.get("status", {}).get("phase")
    return phase


def find_condition(manifest: Manifest, kind: str, status: str = "True") -> Manifest | None:
    """Return the object's condition of that type and status, if it has one."""
    conditions: list[Manifest] = manifest.get("status", {}).get("conditions") or []
    return next((found for found in conditions if (found["type"], found["status"]) == (kind, status)), None)
