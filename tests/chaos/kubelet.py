"""The kubelet of a node that is not there: it plays a script with the pods that the real scheduler has put on it.

Everything else is real: the Job controller makes the pods and counts them, the garbage collector deletes them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.chaos.api import Api, Manifest
from tests.chaos.script import FATAL, INTERRUPTED, NUM_NODES, OUT_OF_MEMORY, Act, Script

NODE = "chaos"
ATTEMPT, INDEX = "runyard.dev/attempt", "batch.kubernetes.io/job-completion-index"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@asynccontextmanager
async def register_node(api: Api) -> AsyncIterator[None]:
    """Keep a Node with room for everything Ready until the block ends."""
    room = {"cpu": "10000", "memory": "10000Gi", "pods": "100000", "ephemeral-storage": "10000Gi"}
    await api.try_to(api.create("/api/v1/nodes", {"metadata": {"name": NODE}}), 409)

    async def beat() -> None:
        while True:
            ready = {
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "",
                "lastHeartbeatTime": now(),
            }
            status = {"capacity": room, "allocatable": room, "conditions": [ready]}
            await api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})
            await asyncio.sleep(5)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


@dataclass
class Kubelet:
    """Plays one run's script with its pods. `suspend` suspends the run and resumes it once it is."""

    api: Api
    namespace: str
    script: Script
    suspend: Callable[[], Awaitable[None]]
    is_known: Callable[[int], Awaitable[None]]
    """Returns when the run's status tells of that attempt."""
    pods: dict[str, Manifest] = field(default_factory=dict)
    acted: set[str] = field(default_factory=set)
    """Attempts and prepare pods whose act has begun."""
    num_prepared: int = 0
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def see(self, kind: str, pod: Manifest) -> None:
        """Take an event of the watch."""
        uid = pod["metadata"]["uid"]
        if kind == "DELETED":
            self.pods.pop(uid, None)
            return
        self.pods[uid] = pod
        self._spawn(self._sync(uid))

    async def stop(self) -> None:
        """Do nothing any more. Raises what went wrong."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --------------------------------------------------------------------------------------------------- what it does

    def _spawn(self, action: Awaitable[None]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            raise error

    async def _sync(self, uid: str) -> None:
        """Do what a kubelet does upon a change of a pod, one change of it at a time."""
        async with self._locks.setdefault(uid, asyncio.Lock()):
            pod = self.pods.get(uid)
            if pod is None or "nodeName" not in pod["spec"]:
                return
            if state_of(pod) is None and not is_deleting(pod):
                await self._set(pod, phase="Running", state={"running": {"startedAt": now()}})
            elif is_deleting(pod) and state_of(pod) in (None, "running"):
                await self._end(pod, INTERRUPTED)
            elif is_deleting(pod) and state_of(pod) == "terminated":
                await self._remove(pod)
        await self._act_if_all_run(pod)

    async def _act_if_all_run(self, pod: Manifest) -> None:
        owner = pod["metadata"]["ownerReferences"][0]["uid"]
        attempt = int(pod["metadata"]["labels"].get(ATTEMPT, "0"))
        gang = [each for each in self.pods.values() if each["metadata"]["ownerReferences"][0]["uid"] == owner]
        running = [each for each in gang if state_of(each) == "running" and not is_deleting(each)]
        if not attempt and running and running[0]["metadata"]["uid"] not in self.acted:
            self.acted.add(running[0]["metadata"]["uid"])
            kinds = self.script.prepare
            await self._prepare(running[0], kinds[min(self.num_prepared, len(kinds) - 1)])
        elif attempt and len(running) == NUM_NODES and str(attempt) not in self.acted:
            self.acted.add(str(attempt))
            running.sort(key=lambda each: int(each["metadata"]["labels"][INDEX]))
            await self._play(self.script.acts[min(attempt, len(self.script.acts)) - 1], attempt, running)

    async def _prepare(self, pod: Manifest, kind: str) -> None:
        self.num_prepared += 1
        if kind == "be evicted":
            await self._evict(pod)
        elif kind == "go wrong for good":
            await self._end(pod, FATAL, {"reason": "DataError", "message": "bad text", "exitCode": FATAL})
        else:
            await self._end(pod, 0, {"reason": "Completed", "resolved": {"precision": "fp32"}})

    async def _play(self, act: Act, attempt: int, pods: list[Manifest]) -> None:
        target = pods[act.rank]
        told = tell_checkpoint(attempt, act.checkpoint)
        match act.kind:
            case "finish":
                for pod in pods:
                    await self._end(pod, 0, {"reason": "Completed"})
            case "crash" | "go wrong for good":
                code = 1 if act.kind == "crash" else FATAL
                reason = "Error" if act.kind == "crash" else "DataError"
                report = {"reason": reason, "message": "it broke", "exitCode": code, "rank": act.rank}
                await self._end(target, code, report | told)
            case "run out of memory":
                report = {"reason": "Error", "exitCode": OUT_OF_MEMORY} | told
                await self._end(target, OUT_OF_MEMORY, report if told else None, reason="OOMKilled")
            case "lose a pod":
                await self.is_known(attempt)
                await self._delete("api/v1", "pods", target)
            case "lose its Job":
                await self.is_known(attempt)
                name = target["metadata"]["ownerReferences"][0]["name"]
                await self._delete("apis/batch/v1", "jobs", {"metadata": {"name": name}})
            case "be evicted":
                await self._evict(target)
            case "be suspended":
                await self.is_known(attempt)
                await self.suspend()
            case _:
                raise AssertionError(act.kind)

    # ---------------------------------------------------------------------------------------------------------- writes

    async def _end(self, pod: Manifest, code: int, report: dict[str, Any] | None = None, reason: str = "") -> None:
        """End its container, by itself or because it was asked to end."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "startedAt": now(),
            "finishedAt": now(),
            "message": json.dumps(report) if report else "",
        }
        await self._set(pod, phase="Failed" if code else "Succeeded", state={"terminated": ended})

    async def _evict(self, pod: Manifest) -> None:
        """Evict it as the kubelet does under pressure."""
        target = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "pressure"}
        ended = {"exitCode": 137, "reason": "Error", "startedAt": now(), "finishedAt": now(), "message": ""}
        await self._set(pod, phase="Failed", state={"terminated": ended}, reason="Evicted", conditions=[target])

    async def _set(self, pod: Manifest, *, phase: str, state: dict[str, Any], **fields: Any) -> None:
        container = {"name": "trainer", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        conditions = [each for each in pod["status"].get("conditions", []) if each["type"] != "Ready"]
        ready = {"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": now()}
        fields["conditions"] = [*conditions, ready, *fields.get("conditions", [])]
        body = {"status": {"phase": phase, "containerStatuses": [container], **fields}}
        stored = await self.api.try_to(self.api.patch(f"{self._path(pod)}/status", body), 404)
        if stored:
            self.pods[pod["metadata"]["uid"]] = stored

    async def _remove(self, pod: Manifest) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self.api.try_to(self.api.request("DELETE", self._path(pod), body), 404, 409)

    async def _delete(self, root: str, plural: str, found: Manifest) -> None:
        path = f"/{root}/namespaces/{self.namespace}/{plural}/{found['metadata']['name']}"
        await self.api.try_to(self.api.request("DELETE", path, {"propagationPolicy": "Background"}), 404)

    def _path(self, pod: Manifest) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}"


def state_of(pod: Manifest) -> str | None:
    """Return running, terminated, or None before its container was started."""
    statuses: Iterable[Manifest] = pod["status"].get("containerStatuses") or []
    return next((state for each in statuses for state in each["state"]), None)


def is_deleting(found: Manifest) -> bool:
    return "deletionTimestamp" in found["metadata"]


def tell_checkpoint(attempt: int, step: int | None) -> dict[str, Any]:
    """Build the part of a report that names a commit."""
    if step is None:
        return {}
    checkpoint = {"uri": f"s3://models/out/checkpoints/{step}", "step": step, "time": now()}
    progress = {"stage": "training", "attempt": attempt, "step": step, "totalSteps": 100, "lastHeartbeatTime": now()}
    return {"progress": progress | {"checkpoint": checkpoint}}
