"""Build a pod's status from the states of its containers. Pure.

Pending     no container has started yet, or an init container is not done
Running     a container runs, or will run again
Succeeded   all containers have ended for good, with 0
Failed      all containers have ended for good, one with another code; or the pod was stopped
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_FIRST_BACK_OFF_S, _LAST_BACK_OFF_S = 10.0, 300.0


@dataclass(frozen=True)
class Waiting:
    """A container that has not started, or waits to start again."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """A container whose process runs."""

    started_at: str


@dataclass(frozen=True)
class Terminated:
    """A container whose process has ended."""

    exit_code: int
    reason: str
    message: str
    started_at: str
    finished_at: str
    container_id: str


@dataclass(frozen=True)
class ContainerState:
    """A container as the status shows it."""

    name: str
    image: str
    state: Waiting | Running | Terminated
    last: Terminated | None = None
    """End of the run before this one."""
    restart_count: int = 0
    container_id: str = ""
    started: bool = False
    """Whether it runs and its startup probe has succeeded."""
    ready: bool = False


@dataclass(frozen=True)
class PodState:
    """The state of a pod on its node."""

    init_containers: Sequence[ContainerState]
    containers: Sequence[ContainerState]
    address: str | None
    host_address: str
    started_at: str
    is_stopped: bool = False
    """Whether no container will run again, whatever the restart policy says."""
    stop_reason: str = ""
    stop_message: str = ""


def will_restart(policy: str, exit_code: int) -> bool:
    """Return whether a container that ended with this code is started again under the pod's restartPolicy."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def restart_delay_s(num_ends_in_a_row: int) -> float:
    """Compute the wait before the next start: 0 after the first end, then 10 s, doubling up to 5 min."""
    if num_ends_in_a_row <= 1:
        return 0.0
    return float(min(_FIRST_BACK_OFF_S * 2 ** min(num_ends_in_a_row - 2, 10), _LAST_BACK_OFF_S))


def find_phase(state: PodState, policy: str) -> str:
    """Find the phase, by the table of this module."""
    if state.is_stopped:
        succeeded = all(_succeeded(container) for container in (*state.init_containers, *state.containers))
        return "Succeeded" if succeeded and not state.stop_reason else "Failed"
    for container in state.init_containers:
        if not _succeeded(container):
            ended = isinstance(container.state, Terminated)
            return "Failed" if ended and policy == "Never" else "Pending"
    if all(_has_ended_for_good(container, policy) for container in state.containers):
        return "Succeeded" if all(_succeeded(container) for container in state.containers) else "Failed"
    if any(isinstance(c.state, Running | Terminated) or c.last for c in state.containers):
        return "Running"
    return "Pending"


def _has_ended_for_good(container: ContainerState, policy: str) -> bool:
    state = container.state
    return isinstance(state, Terminated) and not will_restart(policy, state.exit_code)


def _succeeded(container: ContainerState) -> bool:
    return isinstance(container.state, Terminated) and container.state.exit_code == 0


def build_pod_status(pod: Mapping[str, Any], state: PodState, now: str) -> Json:
    """Build the status to patch. `now` is the time of conditions that change."""
    phase = find_phase(state, pod["spec"].get("restartPolicy", "Always"))
    status: Json = {
        "phase": phase,
        "hostIP": state.host_address,
        "hostIPs": [{"ip": state.host_address}],
        "startTime": state.started_at,
        "conditions": _build_conditions(pod, state, phase, now),
        "containerStatuses": [build_container_status(container) for container in state.containers],
    }
    if state.init_containers:
        status["initContainerStatuses"] = [build_container_status(container) for container in state.init_containers]
    if state.address:
        status["podIP"] = state.address
        status["podIPs"] = [{"ip": state.address}]
    if state.stop_reason:
        status |= {"reason": state.stop_reason, "message": state.stop_message}
    return status


def build_container_status(container: ContainerState) -> Json:
    """Build one entry of containerStatuses."""
    status: Json = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "state": _build_state(container.state),
        "lastState": _build_state(container.last) if container.last else {},
        "ready": container.ready,
        "started": container.started,
        "restartCount": container.restart_count,
    }
    if container.container_id:
        status["containerID"] = container.container_id
    return status


def _build_state(state: Waiting | Running | Terminated) -> Json:
    if isinstance(state, Waiting):
        return {"waiting": {"reason": state.reason} | ({"message": state.message} if state.message else {})}
    if isinstance(state, Running):
        return {"running": {"startedAt": state.started_at}}
    terminated: Json = {
        "exitCode": state.exit_code,
        "reason": state.reason,
        "startedAt": state.started_at,
        "finishedAt": state.finished_at,
        "containerID": state.container_id,
    }
    return {"terminated": terminated | ({"message": state.message} if state.message else {})}


def read_container_state(status: Mapping[str, Any]) -> ContainerState:
    """Read a state back from an entry that an earlier agent has reported with `build_container_status`."""
    return ContainerState(
        name=status["name"],
        image=status["image"],
        state=_read_state(status.get("state", {})),
        last=_read_terminated(status.get("lastState", {}).get("terminated")),
        restart_count=status.get("restartCount", 0),
        container_id=status.get("containerID", ""),
    )


def _read_state(state: Mapping[str, Any]) -> Waiting | Running | Terminated:
    if running := state.get("running"):
        return Running(running["startedAt"])
    waiting = state.get("waiting", {})
    return _read_terminated(state.get("terminated")) or Waiting(waiting.get("reason", ""), waiting.get("message", ""))


def _read_terminated(terminated: Mapping[str, Any] | None) -> Terminated | None:
    if not terminated:
        return None
    return Terminated(
        exit_code=terminated["exitCode"],
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        started_at=terminated["startedAt"],
        finished_at=terminated["finishedAt"],
        container_id=terminated.get("containerID", ""),
    )


# ---------------------------------------------------------------------------------------------------------- conditions


def _build_conditions(pod: Mapping[str, Any], state: PodState, phase: str, now: str) -> list[Json]:
    """Build the conditions that a kubelet owns; one whose status stays keeps its time."""
    has_ended = phase in ("Succeeded", "Failed")
    unready = [container.name for container in state.containers if not container.ready]
    uninitialized = [container.name for container in state.init_containers if not _succeeded(container)]
    reason = f"Pod{'Completed' if phase == 'Succeeded' else phase}" if has_ended else "ContainersNotReady"
    why_unready = (reason, "" if has_ended else f"containers with unready status: [{' '.join(unready)}]")
    why_uninitialized = ("ContainersNotInitialized", f"containers with incomplete status: [{' '.join(uninitialized)}]")
    wanted = [
        _build_condition("PodReadyToStartContainers", state.address is not None and not has_ended),
        _build_condition("Initialized", not uninitialized, *why_uninitialized),
        _build_condition("ContainersReady", not unready and not has_ended, *why_unready),
        _build_condition("Ready", not unready and not has_ended, *why_unready),
    ]
    known = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions", [])}
    for condition in wanted:
        before = known.get(condition["type"], {})
        is_same = before.get("status") == condition["status"]
        condition["lastTransitionTime"] = before["lastTransitionTime"] if is_same else now
    return wanted


def _build_condition(kind: str, holds: bool, reason: str = "", message: str = "") -> Json:
    if holds or not reason:
        return {"type": kind, "status": str(holds), "reason": None, "message": None}
    return {"type": kind, "status": str(holds), "reason": reason, "message": message or None}
