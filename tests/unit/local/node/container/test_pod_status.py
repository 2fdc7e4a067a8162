"""What a pod's status is, for each state of its containers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runyard_local.node.container.pod_status import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    Waiting,
    build_container_status,
    build_pod_status,
    find_phase,
    read_container_state,
    restart_delay_s,
    will_restart,
)

NOW, BEFORE = "2026-01-01T00:00:10Z", "2026-01-01T00:00:00Z"


def ended(exit_code: int) -> Terminated:
    return Terminated(exit_code, "Error" if exit_code else "Completed", "", BEFORE, NOW, "runyard://u/c/0")


WAITING = ContainerState("c", "i", Waiting("ContainerCreating"))
RUNNING = replace(WAITING, state=Running(BEFORE), started=True, ready=True)
SUCCEEDED = replace(WAITING, state=ended(0))
FAILED = replace(WAITING, state=ended(3))
BACKING_OFF = replace(WAITING, state=Waiting("CrashLoopBackOff", "back-off 10s"), last=ended(3), restart_count=1)


def pod_state(*containers: ContainerState, **more: Any) -> PodState:
    return PodState(more.pop("init", []), list(containers), "127.9.0.2", "127.9.0.1", BEFORE, **more)


@pytest.mark.parametrize(
    ("state", "policy", "want"),
    [
        pytest.param(pod_state(WAITING), "Never", "Pending", id="nothing has started"),
        pytest.param(pod_state(RUNNING, WAITING), "Never", "Running", id="one runs, one has not started"),
        pytest.param(pod_state(SUCCEEDED, RUNNING), "Never", "Running", id="one is done, one runs"),
        pytest.param(pod_state(SUCCEEDED, SUCCEEDED), "Never", "Succeeded", id="both are done"),
        pytest.param(pod_state(SUCCEEDED, FAILED), "Never", "Failed", id="one has failed for good"),
        pytest.param(pod_state(FAILED), "OnFailure", "Running", id="it has failed and will run again"),
        pytest.param(pod_state(SUCCEEDED), "OnFailure", "Succeeded", id="it is done and will not run again"),
        pytest.param(pod_state(SUCCEEDED), "Always", "Running", id="it is done and will run again"),
        pytest.param(pod_state(BACKING_OFF), "Always", "Running", id="it waits to run again"),
        pytest.param(pod_state(WAITING, init=[RUNNING]), "Never", "Pending", id="an init container runs"),
        pytest.param(pod_state(WAITING, init=[FAILED]), "Never", "Failed", id="an init container has failed for good"),
        pytest.param(pod_state(WAITING, init=[FAILED]), "Always", "Pending", id="an init container will run again"),
        pytest.param(pod_state(FAILED, is_stopped=True), "Always", "Failed", id="it was stopped with an error"),
        pytest.param(pod_state(SUCCEEDED, is_stopped=True), "Always", "Succeeded", id="it was stopped and ended well"),
        pytest.param(pod_state(WAITING, is_stopped=True), "Never", "Failed", id="it was stopped before it started"),
        pytest.param(
            pod_state(SUCCEEDED, is_stopped=True, stop_reason="DeadlineExceeded"),
            "Never",
            "Failed",
            id="it took too long",
        ),
    ],
)
def test_phase(state: PodState, policy: str, want: str) -> None:
    assert find_phase(state, policy) == want


def conditions(state: PodState, known: list[dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    pod = {"spec": {"restartPolicy": "Never"}, "status": {"conditions": known or []}}
    return {condition["type"]: condition for condition in build_pod_status(pod, state, NOW)["conditions"]}


def test_a_running_pod_is_ready() -> None:
    found = conditions(pod_state(RUNNING))
    assert {kind: condition["status"] for kind, condition in found.items()} == {
        "PodReadyToStartContainers": "True",
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }


def test_a_pod_says_which_container_is_not_ready() -> None:
    ready = conditions(pod_state(RUNNING, replace(RUNNING, name="slow", ready=False)))["Ready"]
    want = ("False", "ContainersNotReady", "containers with unready status: [slow]")
    assert (ready["status"], ready["reason"], ready["message"]) == want


def test_a_completed_pod_is_not_ready_and_says_why() -> None:
    ready = conditions(pod_state(SUCCEEDED))["Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")


def test_a_condition_keeps_its_time_as_long_as_it_keeps_its_status() -> None:
    known = [
        {"type": "Ready", "status": "True", "lastTransitionTime": BEFORE},
        {"type": "Initialized", "status": "False", "lastTransitionTime": BEFORE},
    ]
    found = conditions(pod_state(RUNNING), known)
    assert (found["Ready"]["lastTransitionTime"], found["Initialized"]["lastTransitionTime"]) == (BEFORE, NOW)


def test_a_whole_status_is_what_a_kubelet_reports() -> None:
    status = build_pod_status({"spec": {"restartPolicy": "Never"}}, pod_state(FAILED), NOW)
    del status["conditions"]
    assert status == {
        "phase": "Failed",
        "hostIP": "127.9.0.1",
        "hostIPs": [{"ip": "127.9.0.1"}],
        "podIP": "127.9.0.2",
        "podIPs": [{"ip": "127.9.0.2"}],
        "startTime": BEFORE,
        "containerStatuses": [
            {
                "name": "c",
                "image": "i",
                "imageID": "",
                "state": {
                    "terminated": {
                        "exitCode": 3,
                        "reason": "Error",
                        "startedAt": BEFORE,
                        "finishedAt": NOW,
                        "containerID": "runyard://u/c/0",
                    }
                },
                "lastState": {},
                "ready": False,
                "started": False,
                "restartCount": 0,
            }
        ],
    }


@pytest.mark.parametrize("state", [WAITING, SUCCEEDED, FAILED, BACKING_OFF])
def test_a_container_is_read_back_as_it_was_reported(state: ContainerState) -> None:
    assert read_container_state(build_container_status(state)) == state


def test_back_off_starts_at_once_and_doubles_up_to_five_minutes() -> None:
    assert [restart_delay_s(count) for count in (1, 2, 3, 4, 20, 5000)] == [0, 10, 20, 40, 300, 300]


def test_restart_policies() -> None:
    found = {policy: [will_restart(policy, code) for code in (0, 1)] for policy in ("Always", "OnFailure", "Never")}
    assert found == {"Always": [True, True], "OnFailure": [False, True], "Never": [False, False]}
