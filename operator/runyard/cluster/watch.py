"""The watches: kopf, which does nothing else here, passes each event on.

    run, its Jobs and Pods ─> the cache, then the run's key     ResourceQuota ─> its namespace     GPUBudget ─> its name

Jobs and Pods are filtered by label on the server, so other people's are never sent here. kopf lists before it watches:
what happened while nobody watched is not missed. Where kopf cannot go on it raises, and the process ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from runyard.api.gpubudget import BUDGET_PLURAL
from runyard.api.trainingrun import GROUP, LABEL_RUN, LABEL_RUN_UID, PLURAL, VERSION
from runyard.cluster.client import Kube
from runyard.cluster.watch_cache import WatchCache
from runyard.decide.values import Key

CHUNK_SIZE = 200
"""Objects in one page of a list: without pages a start with thousands would hold them all in memory."""
IDLE_TIMEOUT_S = 0.1
"""After which kopf lets go of an object."""


class Watch:
    """The watches of an operator: `start`, then `stop`."""

    def __init__(
        self,
        kube: Kube,
        on_key: Callable[[Key], None],
        cache: WatchCache,
        on_quota: Callable[[str], None],
        on_budget: Callable[[str], None],
        namespaces: tuple[str, ...],
        identity: str,
    ) -> None:
        """Prepare the watches.

        Args:
            kube: the connection to the API server.
            on_key: called with the key of a run, after `cache` has the event.
            cache: of the runs, Jobs and Pods.
            on_quota: called with the namespace of a ResourceQuota.
            on_budget: called with the name of a GPUBudget.
            namespaces: to watch; empty: all, and budgets, which belong to the cluster.
            identity: kopf's name for itself; without one it asks for the user's name, which a container may not have.
        """
        self._kube = kube
        self._on_key = on_key
        self._cache = cache
        self._on_quota = on_quota
        self._on_budget = on_budget
        self._namespaces = namespaces
        self._identity = identity
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()

    def is_ready(self) -> bool:
        """Return whether kopf has logged in and begins to watch."""
        return self._ready.is_set()

    async def start(self) -> asyncio.Task[None]:
        """Begin to watch; the task returned ends upon `stop`, or with the error that ended the watches.

        kopf takes over SIGTERM and SIGINT here: whoever wants them has to take them back after this returns.
        """
        ours = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=self._build_registry(),
            settings=build_settings(),
            identity=self._identity,  # type: ignore[arg-type]  # a NewType of str that kopf does not export
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            ready_flag=self._ready,
            stop_flag=self._stopping,
        )
        return asyncio.create_task(kopf.run_tasks(tasks, ignored=ours), name="watches")

    def stop(self) -> None:
        """End the watches."""
        self._stopping.set()

    def _build_registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        async def log_in(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._kube.server, aiohttp_session=await self._kube.open_session())

        async def on_run(*, event: kopf.RawEvent, namespace: str | None, name: str, **_: Any) -> None:
            self._cache.note_run(dict(event["object"]), event["type"] == "DELETED")
            self._on_key(Key(str(namespace), name))

        async def on_owned(*, event: kopf.RawEvent, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
            self._cache.note_owned(dict(event["object"]), event["type"] == "DELETED")
            if name := labels.get(LABEL_RUN):
                self._on_key(Key(str(namespace), name))

        async def on_quota(*, namespace: str | None, **_: Any) -> None:
            self._on_quota(str(namespace))

        async def on_budget(*, name: str, **_: Any) -> None:
            self._on_budget(name)

        kopf.on.login(registry=registry)(log_in)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(on_run)
        kopf.on.event("batch", "v1", "jobs", labels={LABEL_RUN_UID: kopf.PRESENT}, registry=registry)(on_owned)
        kopf.on.event("", "v1", "pods", labels={LABEL_RUN_UID: kopf.PRESENT}, registry=registry)(on_owned)
        kopf.on.event("", "v1", "resourcequotas", registry=registry)(on_quota)
        if not self._namespaces:
            kopf.on.event(GROUP, VERSION, BUDGET_PLURAL, registry=registry)(on_budget)
        return registry


class NoEssence(kopf.DiffBaseStorage):
    """A storage that stores nothing: kopf else copies each object several times, for handlers that are not here."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Return nothing."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Return nothing."""
        return None

    def store(self, **_: Any) -> None:
        """Do nothing."""


def build_settings() -> kopf.OperatorSettings:
    """Build settings by which kopf writes nothing: no Events, no peering, no discovery of CRDs and namespaces."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.peering.mandatory = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoEssence()
    settings.watching.chunk_size = CHUNK_SIZE
    settings.queueing.idle_timeout = IDLE_TIMEOUT_S
    settings.watching.label_selectors["batch", "v1", "jobs"] = LABEL_RUN_UID
    settings.watching.label_selectors["", "v1", "pods"] = LABEL_RUN_UID
    return settings
