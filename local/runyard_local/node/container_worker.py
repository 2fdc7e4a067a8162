"""The worker of a container: start it, wait for its end, start it again if restartPolicy says so.

    Waiting ──> Running ──> Terminated ──> (back-off) Waiting ──> Running ...
       └─ CreateContainerConfigError: tried again every second

`run` returns when the container has ended for good. `stop` ends it: SIGTERM, and SIGKILL after the grace period.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from runyard_local.client import ApiError
from runyard_local.node import probes
from runyard_local.node.container import shim
from runyard_local.node.container.environment import (
    ConfigError,
    Facts,
    build_command,
    build_environment,
    check_container,
    find_references,
)
from runyard_local.node.container.mounts import plan_mounts
from runyard_local.node.container.pod_status import (
    ContainerState,
    Running,
    Terminated,
    Waiting,
    restart_delay_s,
    will_restart,
)
from runyard_local.node.container.shim import START_FAILED, ContainerSpec, Mount
from runyard_local.node.container.volumes import plan_volume_mounts
from runyard_local.node.context import NodeContext, format_now
from runyard_local.node.etc_hosts import find_hostname
from runyard_local.node.folders import ContainerDir
from runyard_local.node.logs import split_lines

_CONFIG_RETRY_S = 1.0
_STEADY_AFTER_S = 600.0
"""After a run as long as this, the back-off starts afresh."""
_IMAGE_USER = 10001
"""The user of our images, for pods with runAsNonRoot and without runAsUser."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_MESSAGE_BYTES = 4096
_MAX_LOG_MESSAGE_BYTES = 2048

log = logging.getLogger(__name__)


class ContainerWorker:
    """One container. `state` is what the pod's status shows; `changed` is called whenever it changes."""

    def __init__(
        self,
        node: NodeContext,
        pod: Mapping[str, Any],
        spec: Mapping[str, Any],
        state: ContainerState,
        changed: Callable[[], None],
    ) -> None:
        self.state = state
        self.spec = spec
        self._node = node
        self._pod = pod
        self._pod_dir = node.folder.pod(pod["metadata"]["uid"])
        self._changed = changed
        self._address = ""
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._grace_s = 0.0

    @property
    def succeeded(self) -> bool:
        return isinstance(self.state.state, Terminated) and self.state.state.exit_code == 0

    async def run(self, address: str, restart_policy: str) -> None:
        """Run the container until it has ended for good or was stopped. `address` is the pod's."""
        self._address = address
        num_ends_in_a_row = 1 if isinstance(self.state.state, Terminated) else 0
        while not self._stopping.is_set():
            if isinstance(self.state.state, Terminated):
                if not will_restart(restart_policy, self.state.state.exit_code):
                    return
                await self._back_off(restart_delay_s(num_ends_in_a_row))
                if self._stopping.is_set():
                    return
            began_s = time.monotonic()
            await self._run_once()
            num_ends_in_a_row = 1 if time.monotonic() - began_s > _STEADY_AFTER_S else num_ends_in_a_row + 1

    def stop(self, grace_s: float) -> None:
        """Stop it for good. A second call may shorten the grace period."""
        self._grace_s = grace_s
        self._stopping.set()
        self.terminate(grace_s)

    def terminate(self, grace_s: float) -> None:
        """End the run that is under way, if any."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        _signal(process, signal.SIGTERM if grace_s > 0 else signal.SIGUSR1)
        asyncio.get_running_loop().call_later(grace_s, _signal, process, signal.SIGUSR1)

    # -------------------------------------------------------------------------------------------------------- one run

    async def _run_once(self) -> None:
        folder = self._pod_dir.container(self.state.name, self.state.restart_count)
        spec = await self._plan(folder)
        if spec is None:
            return
        folder.make()
        started_at = format_now()
        container_id = f"runyard://{self._pod['metadata']['uid']}/{self.state.name}/{self.state.restart_count}"
        process, error = await _start(spec, folder)
        if error:
            await process.wait()
            ended = Terminated(START_FAILED, "StartError", error, started_at, format_now(), container_id)
        else:
            self._set(state=Running(started_at), container_id=container_id)
            exit_code = await self._watch(process)
            message = read_termination_message(folder, exit_code, self.spec.get("terminationMessagePolicy", "File"))
            reason = "Completed" if exit_code == 0 else "Error"
            ended = Terminated(exit_code, reason, message, started_at, format_now(), container_id)
        self._set(state=ended, container_id=container_id, ready=False, started=False)

    async def _watch(self, process: asyncio.subprocess.Process) -> int:
        """Probe the container until it ends, and return its exit code. Stop it if that was asked before it started."""
        self._process = process
        if self._stopping.is_set():
            self.terminate(self._grace_s)
        probing = asyncio.create_task(probes.watch(self.spec, self._address, self._report_health))
        try:
            code = await process.wait()
        finally:
            probing.cancel()
            with suppress(asyncio.CancelledError):
                await probing
            self._process = None
        return code if code >= 0 else 128 - code

    def _report_health(self, health: probes.Health) -> None:
        if health.failed_probe:
            log.info("container %s failed its %s probe", self.state.name, health.failed_probe)
            self.terminate(float(self._pod["spec"].get("terminationGracePeriodSeconds", 30)))
        self._set(started=health.started, ready=health.ready)

    async def _plan(self, folder: ContainerDir) -> ContainerSpec | None:
        """Build the spec, again until everything that it refers to exists; None if stopped meanwhile."""
        while not self._stopping.is_set():
            try:
                return await self._build_spec(folder)
            except ConfigError as error:
                self._set(state=Waiting("CreateContainerConfigError", str(error)))
            except ApiError as error:
                self._set(state=Waiting("ContainerCreating", str(error)))
            await self._pause(_CONFIG_RETRY_S)
        return None

    async def _build_spec(self, folder: ContainerDir) -> ContainerSpec:
        check_container(self.spec)
        namespace = self._pod["metadata"]["namespace"]
        objects = await self._node.read_objects(namespace, find_references(self.spec))
        facts = Facts(self._pod, self._address, self._node.address, objects)
        uid, gid = find_user(self._pod["spec"], self.spec)
        variables = build_environment(self.spec, facts, self._given_variables(uid))
        volumes = {volume["name"]: volume for volume in self._pod["spec"].get("volumes", [])}
        termination_path = self.spec.get("terminationMessagePath", "/dev/termination-log")
        mounts = plan_mounts(
            self._node.host_view,
            self._pod_dir.etc,
            Mount("bind", termination_path, str(folder.termination_log)),
            plan_volume_mounts(self.spec, volumes, self._pod_dir),
        )
        return ContainerSpec(
            hostname=find_hostname(self._pod),
            root=str(folder.root),
            mounts=mounts,
            read_only_root=self.spec.get("securityContext", {}).get("readOnlyRootFilesystem", False),
            argv=tuple(build_command(self.spec, variables)),
            env=variables,
            working_dir=self.spec.get("workingDir") or "/",
            uid=uid,
            gid=gid,
            log=str(folder.log),
            exit=str(folder.exit),
        )

    def _given_variables(self, uid: int) -> dict[str, str]:
        """Return the variables that an image and a kubelet would set."""
        server = self._node.client.server
        return {
            "PATH": f"{self._node.host_view.bin_dir}:{_SYSTEM_PATH}",
            "HOME": "/root" if uid == 0 else "/tmp",  # noqa: S108 - the only folder a pod may write to
            "LANG": "C.UTF-8",
            "HOSTNAME": find_hostname(self._pod),
            # GPUs are simulated: pods compute on the CPU, even where the machine has a GPU, which they would fight for.
            "CUDA_VISIBLE_DEVICES": "",
            "RUNYARD_SIMULATED_GPUS": "1",
            "KUBERNETES_SERVICE_HOST": str(server.host),
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(server.port),
        }

    async def _back_off(self, delay_s: float) -> None:
        ended = self.state.state
        assert isinstance(ended, Terminated)
        metadata = self._pod["metadata"]
        what = f"container={self.state.name} pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        if delay_s > 0:
            message = f"back-off {delay_s:.0f}s restarting failed {what}"
            self._set(state=Waiting("CrashLoopBackOff", message), last=ended)
            await self._pause(delay_s)
        if self._stopping.is_set():
            self._set(state=ended)
        else:
            count = self.state.restart_count + 1
            self._set(state=Waiting("ContainerCreating"), last=ended, restart_count=count)

    async def _pause(self, delay_s: float) -> None:
        """Wait, but not longer than until the container is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)

    def _set(self, **changes: Any) -> None:
        state = replace(self.state, **changes)
        if state != self.state:
            self.state = state
            self._changed()


async def _start(spec: ContainerSpec, folder: ContainerDir) -> tuple[asyncio.subprocess.Process, str]:
    """Start the shim; return it, and why it could not start the container: empty if it could."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-E", "-s", "-S", str(shim.__file__)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": _SYSTEM_PATH},
        start_new_session=True,
    )
    folder.record(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(ConnectionError):
        process.stdin.write(spec.to_json().encode())
        await process.stdin.drain()
    process.stdin.close()
    error = await process.stdout.read()
    return process, error.decode(errors="replace")


def _signal(process: asyncio.subprocess.Process, signum: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signum)


def find_user(pod_spec: Mapping[str, Any], container: Mapping[str, Any]) -> tuple[int, int]:
    """Find UID and GID of the container's process. Raises ConfigError for root under runAsNonRoot."""
    context = pod_spec.get("securityContext", {}) | container.get("securityContext", {})
    non_root = context.get("runAsNonRoot", False)
    uid = context.get("runAsUser", _IMAGE_USER if non_root else 0)
    if uid == 0 and non_root:
        raise ConfigError("container's runAsUser breaks non-root policy")
    return uid, context.get("runAsGroup", uid)


def read_termination_message(folder: ContainerDir, exit_code: int, policy: str) -> str:
    """Read what the container left at its terminationMessagePath, or else the end of its log, if `policy` says so."""
    message = folder.termination_log.read_bytes()[:_MAX_MESSAGE_BYTES]
    if not message and exit_code != 0 and policy == "FallbackToLogsOnError":
        lines = split_lines(folder.log.read_bytes())[-80:]
        message = b"".join(line.partition(b" ")[2] for line in lines)[-_MAX_LOG_MESSAGE_BYTES:]
    return message.decode(errors="replace")
