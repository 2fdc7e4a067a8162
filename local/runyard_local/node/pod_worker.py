"""One worker a pod: from the moment it is bound to this node until its object is gone.

    volumes ──> init containers, one after the other ──> containers, side by side ──> all ended for good ──┐
       └────────────────────── deletion, or activeDeadlineSeconds: stop them ──────────────────────────────┤
                                                  last status ──> (deletion asked for) ──> delete the object

A second task sends the status whenever it is another, so that no container ever waits for the API server.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from typing import Any

from runyard_local.client import STRATEGIC_MERGE_PATCH, ApiError
from runyard_local.node.container import volumes
from runyard_local.node.container.environment import ConfigError, Facts
from runyard_local.node.container.pod_status import (
    ContainerState,
    PodState,
    Running,
    Terminated,
    Waiting,
    build_pod_status,
    read_container_state,
)
from runyard_local.node.container.volumes import File, Token, write_file
from runyard_local.node.container_worker import ContainerWorker, find_user, read_termination_message
from runyard_local.node.context import NodeContext, format_now, pod_path
from runyard_local.node.etc_hosts import find_hostname, render_hosts

Pod = dict[str, Any]

_RETRY_S = 1.0
_LOST_EXIT_CODE = 255
_TOKEN_LIFE_FRACTION = 0.8
"""When a token is replaced, as a kubelet does."""

log = logging.getLogger(__name__)


class PodWorker:
    """See the module. `update` and `forget` tell it what the API server has; `run` is its life."""

    def __init__(self, node: NodeContext, pod: Pod) -> None:
        self.pod = pod
        self._node = node
        self._dir = node.folder.pod(pod["metadata"]["uid"])
        self._address: str | None = None
        self._started_at = pod.get("status", {}).get("startTime") or format_now()
        self._changed = asyncio.Event()
        self.ended = asyncio.Event()
        """Set once none of its processes runs, nor will."""
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
        """The object has changed."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            if self._deleted.is_set():
                self._stop(self._grace_s())  # a second deletion may shorten the grace period
            self._deleted.set()

    def forget(self) -> None:
        """The object is gone: end everything at once, and report nothing."""
        self._is_silent = True
        self._stop(0)
        self._deleted.set()

    def write_hosts(self) -> None:
        """Names have changed."""
        if self._address and not self._is_over:
            self._write_etc("hosts", render_hosts(self.pod, self._address, self._node.hosts_entries.values()))

    async def run(self) -> None:
        """Returns when the object and everything that belongs to it are gone, or the node goes down."""
        try:
            if self.pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                await self._live()
        finally:
            self.ended.set()
        await self._deleted.wait()
        if not self._is_leaving:
            await self._delete()
            self._dir.remove()

    def shut_down(self, grace_s: float) -> None:
        """The node goes down: end the processes, and let the next agent report how they ended."""
        self._is_silent = self._is_leaving = True
        self._stop(grace_s)
        self._deleted.set()

    # ------------------------------------------------------------------------------------------------------- its life

    async def _live(self) -> None:
        self._address = self._node.addresses.allocate()
        reporting = asyncio.create_task(self._report_changes())
        refreshing: asyncio.Task[None] | None = None
        try:
            self._changed.set()
            self._make_etc()
            tokens = await self._make_volumes()
            refreshing = asyncio.create_task(self._refresh_tokens(tokens)) if tokens else None
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
        """The container as it is now, when an agent before us may have started it and reported so or not.

        Nothing that was started before us runs any more; how it ended, its shim may have written down.
        """
        waiting = ContainerState(spec["name"], spec.get("image", ""), Waiting("ContainerCreating"))
        state = replace(read_container_state(status), ready=False, started=False) if status else waiting
        restart = self._dir.last_start(spec["name"])
        if isinstance(state.state, Terminated) and restart == state.restart_count:
            return state
        if restart is None:
            return state if not isinstance(state.state, Running) else replace(state, state=self._lose(state, None))
        state = replace(state, restart_count=restart)
        return replace(state, state=self._lose(state, self._dir.container(spec["name"], restart).read_exit_code()))

    def _lose(self, state: ContainerState, exit_code: int | None) -> Terminated:
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
        """The status as it should be."""
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
        """Send the status, until the API server has it or the object is gone."""
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

    async def _patch(self, status: Pod) -> None:
        # podIPs is merged by address: after a crash, the one before would stay.
        addresses = [{"$patch": "replace"}, *status["podIPs"]] if "podIPs" in status else []
        body = {"metadata": {"uid": self.pod["metadata"]["uid"]}, "status": {**status, "podIPs": addresses}}
        await self._node.client.patch(pod_path(self.pod, "/status"), body, STRATEGIC_MERGE_PATCH)

    async def _delete(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        while not self._is_silent:
            try:
                await self._node.client.delete(pod_path(self.pod), options)
            except ApiError as error:
                if error.status in (404, 409):
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                return

    # ---------------------------------------------------------------------------------------------------------- files

    def _make_etc(self) -> None:
        self._dir.etc.mkdir(parents=True, exist_ok=True)
        uid, gid = _find_user_or_root(self.pod)
        user = "" if uid == 0 else f"runyard:x:{uid}:{gid}::/tmp:/bin/sh\n"
        group = "" if gid == 0 else f"runyard:x:{gid}:\n"
        self._write_etc("passwd", f"root:x:0:0:root:/root:/bin/sh\n{user}")
        self._write_etc("group", f"root:x:0:\n{group}")
        self._write_etc("hostname", find_hostname(self.pod) + "\n")
        self._write_etc("resolv.conf", _read_resolver())
        self.write_hosts()

    def _write_etc(self, name: str, text: str) -> None:
        write_file(self._dir.etc, File(name, b"", 0o644), text.encode())

    async def _make_volumes(self) -> list[tuple[str, File]]:
        """Make all, as soon as what they come from is there; returns the tokens to refresh, with their volumes."""
        while not self._stopping.is_set() and not self._deleted.is_set():
            try:
                return await self._try_to_make_volumes()
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

    async def _try_to_make_volumes(self) -> list[tuple[str, File]]:
        tokens = []
        wanted = self.pod["spec"].get("volumes", [])
        references = [reference for volume in wanted for reference in volumes.find_references(volume)]
        objects = await self._node.read_objects(self.pod["metadata"]["namespace"], references)
        facts = Facts(self.pod, self._address or "", self._node.address, objects)
        for volume in wanted:
            volumes.check_volume(volume)
            self._dir.volume(volume["name"]).mkdir(parents=True, exist_ok=True)
            for file in volumes.plan_files(volume, facts):
                if isinstance(file.content, Token):
                    await self._write_token(volume["name"], file, file.content)
                    tokens.append((volume["name"], file))
                else:
                    write_file(self._dir.volume(volume["name"]), file, file.content)
        return tokens

    async def _refresh_tokens(self, tokens: list[tuple[str, File]]) -> None:
        while True:
            shortest_s = min(file.content.expiration_s for _, file in tokens if isinstance(file.content, Token))
            await asyncio.sleep(_TOKEN_LIFE_FRACTION * shortest_s)
            for volume, file in tokens:
                try:
                    assert isinstance(file.content, Token)
                    await self._write_token(volume, file, file.content)
                except ApiError as error:
                    log.warning("cannot refresh a token of %s: %s", self.pod["metadata"]["name"], error)

    async def _write_token(self, volume: str, file: File, token: Token) -> None:
        metadata = self.pod["metadata"]
        account = self.pod["spec"].get("serviceAccountName") or "default"
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        spec = {
            "audiences": [token.audience] if token.audience else [],
            "expirationSeconds": token.expiration_s,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._node.client.create(path, request)
        write_file(self._dir.volume(volume), file, answer["status"]["token"].encode())


def _find_user_or_root(pod: Pod) -> tuple[int, int]:
    try:
        return find_user(pod["spec"], pod["spec"]["containers"][0])
    except ConfigError:
        return 0, 0


def _read_resolver() -> str:
    """The machine's name servers, but impatient: a name of a pod that is not there yet must not take seconds."""
    try:
        with open("/etc/resolv.conf") as file:
            lines = [line for line in file if line.startswith(("nameserver", "search"))]
    except OSError:
        lines = []
    return "".join(lines) + "options timeout:1 attempts:1\n"
