"""The worker of a pod: from its binding to this node until the API server has removed the object.

    volumes ──> init containers, one after the other ──> containers, side by side ──> all ended for good ──┐
       └────────────────────── deletion, or activeDeadlineSeconds: stop them ──────────────────────────────┤
                                            last status ──> (once deletion is asked for) delete the object

A second task sends the status whenever it changes, so that no container ever waits for the API server.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

from runyard_local.client import STRATEGIC_MERGE_PATCH, ApiError
from runyard_local.node.container.environment import ConfigError
from runyard_local.node.container.pod_status import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    Waiting,
    build_pod_status,
    read_container_state,
)
from runyard_local.node.container_worker import ContainerWorker, read_termination_message
from runyard_local.node.context import NodeContext, format_now
from runyard_local.node.pod_files import PodFiles, VolumeToken

Pod = dict[str, Any]

_RETRY_S = 1.0
_LOST_EXIT_CODE = 255
"""Exit code of a container whose end nobody has seen, as containerd reports it."""

log = logging.getLogger(__name__)


class PodWorker:
    """One pod: `run` takes it from start to deletion, `update` and `forget` bring news from the API server."""

    def __init__(self, node: NodeContext, pod: Pod) -> None:
        self.pod = pod
        self._node = node
        self._dir = node.folder.pod(pod["metadata"]["uid"])
        self._address: str | None = None
        self._files: PodFiles | None = None
        self._started_at = pod.get("status", {}).get("startTime") or format_now()
        self._changed = asyncio.Event()
        self.ended = asyncio.Event()
        """Set once none of its processes runs and none will start."""
        self._deleted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_silent = False
        self._is_leaving = False
        self._stopped = ("", "")
        self._is_over = False
        self._reported: Pod = {}
        self._init_containers = self._make_containers("initContainers", "initContainerStatuses")
        self._containers = self._make_containers("containers", "containerStatuses")
        self.update(pod)

    def update(self, pod: Pod) -> None:
        """Take a new version of the object; stop the containers where it asks for deletion."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            if self._deleted.is_set():
                self._stop(self._grace_s())  # a second deletion may shorten the grace period
            self._deleted.set()

    def forget(self) -> None:
        """Kill everything at once and report nothing: the object is gone."""
        self._is_silent = True
        self._stop(0)
        self._deleted.set()

    def write_hosts(self) -> None:
        """Write the names of other pods again: they have changed."""
        if self._files and not self._is_over:
            self._files.write_hosts()

    async def run(self) -> None:
        """Run the pod until its object and its files are gone, or the node goes down."""
        try:
            if self.pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                await self._run_until_over()
        finally:
            self.ended.set()
        await self._deleted.wait()
        if not self._is_leaving:
            await self._delete()
            self._dir.remove()

    def shut_down(self, grace_s: float) -> None:
        """Stop the containers as the node goes down; the next agent reports how they ended."""
        self._is_silent = self._is_leaving = True
        self._stop(grace_s)
        self._deleted.set()

    # ----------------------------------------------------------------------------------------------- start to deletion

    async def _run_until_over(self) -> None:
        self._address = self._node.addresses.allocate()
        files = self._files = PodFiles(self._node, self.pod, self._address)
        reporting = asyncio.create_task(self._report_changes())
        refreshing: asyncio.Task[None] | None = None
        try:
            self._changed.set()
            files.make_etc()
            tokens = await self._make_volumes(files)
            refreshing = asyncio.create_task(files.refresh_tokens(tokens)) if tokens else None
            await self._run_containers_until_stopped()
        finally:
            self._is_over = True
            for task in (reporting, refreshing):
                if task is not None:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
            self._node.addresses.release(self._address)
        await self._report()

    async def _make_volumes(self, files: PodFiles) -> list[VolumeToken]:
        """Make all volumes, again every second until everything that they refer to exists."""
        while not self._stopping.is_set() and not self._deleted.is_set():
            try:
                return await files.make_volumes(self.pod)
            except (ConfigError, ApiError) as error:
                self._explain_waiting(f"MountVolume.SetUp failed: {error}")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._deleted.wait(), _RETRY_S)
        return []

    def _explain_waiting(self, message: str) -> None:
        for container in (*self._init_containers, *self._containers):
            if isinstance(container.state.state, Waiting):
                container.state = replace(container.state, state=Waiting("ContainerCreating", message))
        self._changed.set()

    async def _run_containers_until_stopped(self) -> None:
        if self._deleted.is_set():
            self._stop(0)
        running = asyncio.create_task(self._run_containers())
        deleted = asyncio.create_task(self._deleted.wait())
        deadline_s = self.pod["spec"].get("activeDeadlineSeconds")
        await asyncio.wait((running, deleted), timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        deleted.cancel()
        if not running.done():
            if not self._deleted.is_set():
                self._stopped = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
            if not self._stopping.is_set():
                self._stop(self._grace_s())
        await running

    async def _run_containers(self) -> None:
        assert self._address is not None
        policy = self.pod["spec"].get("restartPolicy", "Always")
        for container in self._init_containers:
            await container.run(self._address, "Never" if policy == "Never" else "OnFailure")
            if not container.succeeded:
                return
        async with asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(container.run(self._address, policy))

    def _stop(self, grace_s: float) -> None:
        self._stopping.set()
        for container in (*self._init_containers, *self._containers):
            container.stop(grace_s)

    def _grace_s(self) -> float:
        of_spec = self.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(self.pod["metadata"].get("deletionGracePeriodSeconds", of_spec))

    # ----------------------------------------------------------------------------------------------------- containers

    def _make_containers(self, member: str, status_member: str) -> list[ContainerWorker]:
        known = {status["name"]: status for status in self.pod.get("status", {}).get(status_member, [])}
        return [
            ContainerWorker(self._node, self.pod, spec, self._recover(spec, known.get(spec["name"])), self._changed.set)
            for spec in self.pod["spec"].get(member, [])
        ]

    def _recover(self, spec: Pod, status: Pod | None) -> ContainerState:
        """Work out a container's state after a restart of the agent.

        An earlier agent may have started the container, and may or may not have reported that. None of its processes
        runs any more; its shim may have written down the exit code.
        """
        waiting = ContainerState(spec["name"], spec.get("image", ""), Waiting("ContainerCreating"))
        state = replace(read_container_state(status), ready=False, started=False) if status else waiting
        restart = self._dir.last_start(spec["name"])
        if isinstance(state.state, Terminated) and restart == state.restart_count:
            return state
        if restart is None:
            return replace(state, state=self._rebuild_end(state, None)) if isinstance(state.state, Running) else state
        state = replace(state, restart_count=restart)
        exit_code = self._dir.container(spec["name"], restart).read_exit_code()
        return replace(state, state=self._rebuild_end(state, exit_code))

    def _rebuild_end(self, state: ContainerState, exit_code: int | None) -> Terminated:
        uid = self.pod["metadata"]["uid"]
        container_id = f"runyard://{uid}/{state.name}/{state.restart_count}"
        now = format_now()
        started_at = state.state.started_at if isinstance(state.state, Running) else now
        if exit_code is None:
            message = "the node agent ended while the container ran"
            return Terminated(_LOST_EXIT_CODE, "Unknown", message, started_at, now, container_id)
        folder = self._dir.container(state.name, state.restart_count)
        message = read_termination_message(folder, exit_code, "File")
        reason = "Completed" if exit_code == 0 else "Error"
        return Terminated(exit_code, reason, message, started_at, now, container_id)

    # --------------------------------------------------------------------------------------------------------- status

    def build_status(self) -> Pod:
        """Build the status to report now."""
        is_stopped = self._is_over and self._stopping.is_set()
        state = PodState(
            init_containers=[container.state for container in self._init_containers],
            containers=[container.state for container in self._containers],
            address=self._address,
            host_address=self._node.address,
            started_at=self._started_at,
            is_stopped=is_stopped,
            stop_reason=self._stopped[0],
            stop_message=self._stopped[1],
        )
        known = {"status": self._reported or self.pod.get("status", {})}
        return build_pod_status({**self.pod, **known}, state, format_now())

    async def _report_changes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._report()

    async def _report(self) -> None:
        """Send the status until the API server has taken it or the object is gone."""
        while not self._is_silent:
            status = self.build_status()
            if status == self._reported:
                return
            try:
                await self._patch(status)
            except ApiError as error:
                if error.status == 404:
                    return
                log.warning("cannot report the status of %s: %s", self.pod["metadata"]["name"], error)
                await asyncio.sleep(_RETRY_S)
            else:
                self._reported = status

    def _path(self, subresource: str = "") -> str:
        metadata = self.pod["metadata"]
        return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}{subresource}"

    async def _patch(self, status: Pod) -> None:
        # A patch merges podIPs by address: after a crash, the old address would stay.
        addresses = [{"$patch": "replace"}, *status["podIPs"]] if "podIPs" in status else []
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": {**status, "podIPs": addresses}}
        await self._node.client.patch(self._path("/status"), body, STRATEGIC_MERGE_PATCH)

    async def _delete(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        while not self._is_silent:
            try:
                await self._node.client.delete(self._path(), options)
            except ApiError as error:
                if error.status in (404, 409):
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                return
