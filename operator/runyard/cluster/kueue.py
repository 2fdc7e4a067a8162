"""Reading Kueue: why it holds a run, for whom the run was preempted, how many Workloads are ahead.

Kueue is read only for a run with `queue.name` that it holds, or that is about to ask it for a place. Where Kueue, or a
part of it, is not installed or may not be read, that part of the view is empty. All of it is for people alone, except
the kinds of priority class, by which the place is built.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runyard.api.trainingrun import Role
from runyard.cluster.client import ApiError, Kube
from runyard.cluster.objects import collection_path
from runyard.decide.facts.pods import find_condition, role_of
from runyard.decide.status import is_finished
from runyard.decide.values import KueueView, Manifest, QueuePosition, Run

KUEUE_API_VERSION = "kueue.x-k8s.io/v1beta2"
VISIBILITY_API_VERSION = "visibility.kueue.x-k8s.io/v1beta2"

POSITIONS_INTERVAL_S = 30.0
"""How often the positions in a LocalQueue are read, once for all runs that it holds."""
UNSERVED_INTERVAL_S = 300.0
"""How often where there was no answer: Kueue's visibility API may be installed later."""

_PREEMPTOR = re.compile(r"JobUID: ([0-9a-f-]{36})")
_PRIORITY_KINDS = {
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "WorkloadPriorityClass": f"/apis/{KUEUE_API_VERSION}/workloadpriorityclasses",
}


@dataclass(frozen=True)
class _Answer:
    expires_s: float
    positions: dict[str, QueuePosition]
    """By the uid of the Job."""


class KueueReader:
    """A reader of Kueue that remembers the positions for a while. `clock` gives seconds."""

    def __init__(self, kube: Kube, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, run: Run, jobs: Iterable[Manifest]) -> KueueView:
        """Return Kueue's view of a run with these Jobs. Raises ApiError."""
        if run.spec is None or run.spec.queue.name is None or is_finished(run.status):
            return KueueView()
        jobs = tuple(jobs)
        place = next((job for job in jobs if role_of(job) == Role.PLACE), None)
        if place is None:
            name = run.spec.queue.priority_class_name
            return KueueView(priority_kinds=await self._find_priority_kinds(name) if name else frozenset())
        # an evicted attempt's Job may be suspended before its place is
        if not any(job["spec"].get("suspend") for job in jobs):
            return KueueView()
        uid, position = place["metadata"]["uid"], None
        workload = await self._find_workload(run.namespace, uid)
        if workload is None:
            return KueueView()
        if find_condition(workload, "QuotaReserved") is None:
            position = await self._find_position(run.namespace, run.spec.queue.name, uid)
        return KueueView(workload, await self._find_preemptor(run.namespace, workload), position)

    async def _find_priority_kinds(self, name: str) -> frozenset[str] | None:
        """Return which kinds of priority class of that name exist; None where they may not be read.

        They belong to the cluster: an operator that serves some namespaces only may not read them.
        """
        paths = _PRIORITY_KINDS.values()
        found = await asyncio.gather(*(self._list(path, fieldSelector=f"metadata.name={name}") for path in paths))
        if None in found:
            return None
        return frozenset(kind for kind, items in zip(_PRIORITY_KINDS, found, strict=True) if items)

    async def _find_workload(self, namespace: str, job_uid: str) -> Manifest | None:
        path = collection_path(KUEUE_API_VERSION, namespace, "workloads")
        found = await self._list(path, labelSelector=f"kueue.x-k8s.io/job-uid={job_uid}")
        return found[0] if found else None

    async def _find_preemptor(self, namespace: str, workload: Manifest) -> str | None:
        """Return who has the quota now, where that is in the same namespace: other namespaces are not shown."""
        preempted = find_condition(workload, "Preempted")
        named = _PREEMPTOR.search(preempted["message"]) if preempted else None
        preemptor = await self._find_workload(namespace, named[1]) if named else None
        owners = preemptor["metadata"].get("ownerReferences", []) if preemptor else []
        return next((f"{owner['kind']} {owner['name']}" for owner in owners if owner.get("controller")), None)

    async def _list(self, path: str, **parameters: str) -> list[Manifest] | None:
        """List; None where that is forbidden, empty where Kueue is not installed."""
        try:
            items: list[Manifest] = (await self._kube.get(path, **parameters))["items"]
        except ApiError as error:
            if error.status == 404:
                return []
            if error.status == 403:
                return None
            raise
        return items

    async def _find_position(self, namespace: str, queue: str, job_uid: str) -> QueuePosition | None:
        path = f"{collection_path(VISIBILITY_API_VERSION, namespace, 'localqueues')}/{queue}/pendingworkloads"
        async with self._locks[path]:  # all runs that the queue holds come at once
            answer = self._answers.get(path)
            if answer is None or self._clock() >= answer.expires_s:
                answer = self._answers[path] = await self._ask(path)
        return answer.positions.get(job_uid)

    async def _ask(self, path: str) -> _Answer:
        try:
            summary = await self._kube.request("GET", path, attempts=1)
        except ApiError:
            return _Answer(self._clock() + UNSERVED_INTERVAL_S, {})
        positions = {
            owner["uid"]: QueuePosition(item["positionInLocalQueue"], item["positionInClusterQueue"])
            for item in summary.get("items") or ()
            for owner in item["metadata"].get("ownerReferences", [])
        }
        return _Answer(self._clock() + POSITIONS_INTERVAL_S, positions)
