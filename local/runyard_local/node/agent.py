"""The agent of one node: claim addresses, kill what a crashed agent left, register, run a worker for each pod."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runyard_trainer.contract.exits import UserError

from runyard_local.client import Client, Deleted, Listed, connect
from runyard_local.node import registration
from runyard_local.node.addresses import MAX_NODES, AddressPool, claim_octet
from runyard_local.node.container.mounts import find_host_view
from runyard_local.node.context import NodeContext
from runyard_local.node.etc_hosts import find_hosts_entry
from runyard_local.node.folders import NodeDir, PodDir
from runyard_local.node.logs import serve_logs
from runyard_local.node.pod_worker import PodWorker

_SHUTDOWN_GRACE_S = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """The command line of an agent."""

    state: Path
    name: str
    index: int
    num_gpus: int
    kubeconfig: Path


async def run_agent(settings: Settings) -> None:
    """Run the node until SIGTERM or SIGINT, then end all pods.

    Raises:
        UserError: the node runs already, or its addresses or credentials cannot be had.
    """
    if not 0 <= settings.index < MAX_NODES:
        raise UserError(f"--index is {settings.index}; it must be from 0 to {MAX_NODES - 1}")
    claim = claim_octet(settings.state, settings.index)
    folder = NodeDir(settings.state / "nodes" / settings.name)
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.kill_leftovers()
    addresses = AddressPool(claim.octet, settings.index)
    # The administrator's credentials, not a node's: the tool runs on loopback for one person.
    async with connect(settings.kubeconfig) as client:
        node = NodeContext(
            settings.name, settings.index, settings.num_gpus, client, addresses, find_host_view(settings.state), folder
        )
        await Agent(node, settings.state / "certs").run()


@dataclass
class Agent:
    """A running node: its pods' workers and the tasks in which they run."""

    node: NodeContext
    certs: Path
    workers: dict[str, PodWorker] = field(default_factory=dict)
    """By the pod's UID."""
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Serve logs, keep the node registered and follow pods until a signal comes."""
        stop = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stop.set)
        async with serve_logs(self.node, self.certs, self._find_pod_dir) as port:
            duties = [
                asyncio.create_task(registration.keep_registered(self.node, port)),
                asyncio.create_task(self._follow_pods(self.node.client)),
            ]
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((*duties, stopped), return_when=asyncio.FIRST_COMPLETED)
            for duty in duties:
                duty.cancel()
                with suppress(asyncio.CancelledError):
                    await duty
            await self._shut_down(port)

    async def _shut_down(self, port: int) -> None:
        # Wait for `ended`, not for the tasks: a task stays with its pod until the object is gone.
        ended = [worker.ended.wait() for worker in self.workers.values()]
        for worker in self.workers.values():
            worker.shut_down(_SHUTDOWN_GRACE_S)
        await asyncio.gather(registration.report_not_ready(self.node, port), *ended)

    # ----------------------------------------------------------------------------------------------------------- pods

    async def _follow_pods(self, client: Client) -> None:
        async for event in client.observe("/api/v1/pods"):
            if isinstance(event, Listed):
                self._update_all_pods({pod["metadata"]["uid"]: pod for pod in event.objects})
            elif isinstance(event, Deleted):
                self._forget_pod(event.object["metadata"]["uid"])
            else:
                self._update_pod(event.object)

    def _update_all_pods(self, pods: dict[str, Any]) -> None:
        for uid in (self.workers.keys() | self.node.hosts_entries.keys()) - pods.keys():
            self._forget_pod(uid)
        for pod in pods.values():
            self._update_pod(pod)
        for uid, folder in self.node.folder.pods():
            if uid not in self.workers:
                folder.remove()

    def _update_pod(self, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        self._set_entry(uid, pod)
        if pod["spec"].get("nodeName") != self.node.name:
            return
        if uid in self.workers:
            self.workers[uid].update(pod)
            return
        self.workers[uid] = PodWorker(self.node, pod)
        self._tasks[uid] = asyncio.create_task(self._run_worker(uid))

    def _forget_pod(self, uid: str) -> None:
        self._set_entry(uid, None)
        if uid in self.workers:
            self.workers[uid].forget()

    def _find_pod_dir(self, namespace: str, name: str) -> PodDir | None:
        for uid, worker in self.workers.items():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return self.node.folder.pod(uid)
        return None

    def _set_entry(self, uid: str, pod: dict[str, Any] | None) -> None:
        entry = None if pod is None else find_hosts_entry(pod)
        if entry == self.node.hosts_entries.get(uid):
            return
        if entry is None:
            del self.node.hosts_entries[uid]
        else:
            self.node.hosts_entries[uid] = entry
        for worker in self.workers.values():
            worker.write_hosts()

    async def _run_worker(self, uid: str) -> None:
        worker = self.workers[uid]
        try:
            await worker.run()
        except Exception:
            # A defect that one pod runs into must not end the node of the others.
            log.exception("the worker of pod %s broke", worker.pod["metadata"]["name"])
        finally:
            del self.workers[uid], self._tasks[uid]
