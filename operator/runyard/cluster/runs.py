"""A run in the cluster: read it and what belongs to it, apply a plan's actions, patch its status.

Reads are consistent (they name no resourceVersion): a stale list could hide an attempt's Job and so lead to a second
one. Every write is safe even if this process has lost the lease without knowing: creates have deterministic names,
deletes name the uid and resourceVersion that were seen, status patches the resourceVersion that was planned with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from runyard_trainer.contract.exits import UserError

from runyard.api.gpubudget import BUDGET_PLURAL
from runyard.api.trainingrun import API_VERSION, KIND, LABEL_RUN_UID, PLURAL, TrainingRunStatus
from runyard.cluster.client import MERGE_PATCH, ApiError, Kube
from runyard.cluster.objects import collection_path, diff_status, is_owned_by, parse_run
from runyard.decide.values import Action, Create, Delete, Key, Manifest, Namespace, Observed, PatchStatus, Run


async def require_crd(kube: Kube) -> None:
    """Raise UserError where the API server does not serve our kinds: kopf would wait for ever in silence."""
    try:
        served = await kube.get(f"/apis/{API_VERSION}")
    except ApiError as error:
        if error.status != 404:
            raise
        served = {"resources": []}
    missing = {PLURAL, BUDGET_PLURAL} - {resource["name"] for resource in served["resources"]}
    if missing:
        names = " and ".join(sorted(missing))
        raise UserError(f"the cluster does not know {names} of {API_VERSION}: install the CRDs (they are in the chart)")


class NotLeaderError(Exception):
    """A write that this replica may not make: the lease has run out or is another's."""


@dataclass(frozen=True)
class Applied:
    """The outcome of a plan's actions, for status to show."""

    errors: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    """`Kind/name` of objects that hold a needed name but are not this run's."""

    @property
    def failed(self) -> bool:
        """Return whether an action was not done."""
        return bool(self.errors or self.conflicts)


_COLLECTIONS = {
    KIND: (API_VERSION, PLURAL),
    "Job": ("batch/v1", "jobs"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "ConfigMap": ("v1", "configmaps"),
}


class Cluster:
    """The runs of a cluster, over `kube`; `is_leader` is called before every write."""

    def __init__(self, kube: Kube, is_leader: Callable[[], bool]) -> None:
        self._kube = kube
        self._is_leader = is_leader

    async def read_run(self, key: Key) -> Run | None:
        """Return the run as stored, or None where there is none. Raises ApiError."""
        manifest = await self.read(f"{collection_path(API_VERSION, key.namespace, PLURAL)}/{key.name}")
        return None if manifest is None else parse_run(manifest)

    async def observe(self, run: Run) -> Observed:
        """Return the Jobs and Pods of `run`. Raises ApiError."""
        jobs, pods = await asyncio.gather(self._list(run, "Job"), self._list(run, "Pod"))
        return Observed(jobs=tuple(job for job in jobs if is_owned_by(job, run.uid)), pods=tuple(pods))

    async def observe_namespace(self, run: Run) -> Namespace:
        """Return what the run shares its namespace's quotas with. Raises ApiError.

        A pod is included only if it was there before the quotas were read and still is afterwards. So a pod that is
        made or goes meanwhile may be counted twice for a moment, but is never missed.
        """
        assert run.spec is not None
        has_quotas = bool(await self._list_quotas(run))
        classes: list[Manifest] | None = []
        if has_quotas or run.spec.queue.priority_class_name is not None:
            classes = await self._list_priority_classes()
        known_classes = None if classes is None else tuple(classes)
        if not has_quotas:
            return Namespace(priority_classes=known_classes)
        runs, jobs, before = await asyncio.gather(
            self.list_all(collection_path(API_VERSION, run.namespace, PLURAL)),
            self.list_all(collection_path("batch/v1", run.namespace, "jobs"), labelSelector=LABEL_RUN_UID),
            self._list_pods(run),
        )
        quotas = await self._list_quotas(run)
        counted = {pod["metadata"]["uid"] for pod in before}
        return Namespace(
            quotas=tuple(quotas),
            runs=tuple(map(parse_run, runs)),
            jobs=tuple(jobs),
            pods=tuple(pod for pod in await self._list_pods(run) if pod["metadata"]["uid"] in counted),
            priority_classes=known_classes,
        )

    async def _list_quotas(self, run: Run) -> list[Manifest]:
        return await self.list_all(collection_path("v1", run.namespace, "resourcequotas"))

    async def _list_pods(self, run: Run) -> list[Manifest]:
        """List the pods of every run of the namespace."""
        return await self.list_all(collection_path("v1", run.namespace, "pods"), labelSelector=LABEL_RUN_UID)

    async def _list_priority_classes(self) -> list[Manifest] | None:
        """List the PriorityClasses; None where that is forbidden.

        They belong to the cluster: an operator that serves some namespaces only may not read them.
        """
        try:
            return await self.list_all("/apis/scheduling.k8s.io/v1/priorityclasses")
        except ApiError as error:
            if error.status == 403:
                return None
            raise

    async def read_source(self, run: Run) -> Run | None:
        """Return the run in `model.run`, unless `status.source` has its model already. Raises ApiError."""
        named = run.spec.model.run if run.spec is not None else None
        if named is None or run.status.source is not None:
            return None
        return await self.read_run(Key(run.namespace, named.name))

    async def apply(self, run: Run, actions: Iterable[Action]) -> Applied:
        """Do `actions` in order up to the first that fails, as a later one may depend on it.

        Raises ApiError 409 where an object to delete or patch has changed since it was observed (look again), and
        NotLeaderError.
        """
        for action in actions:
            try:
                match action:
                    case Create(manifest):
                        if not await self._create(run, manifest):
                            return Applied(conflicts=(f"{manifest['kind']}/{manifest['metadata']['name']}",))
                    case Delete():
                        await self._delete(run, action)
                    case PatchStatus():
                        await self._patch(run, action)
            except ApiError as error:
                if error.reason == "Conflict" and isinstance(action, Delete | PatchStatus):
                    raise
                return Applied(errors=(_describe(action, error),))
        return Applied()

    async def patch_status(self, run: Run, status: TrainingRunStatus) -> bool:
        """Write what differs between the stored status and `status`. Return whether anything did.

        Raises ApiError: 409 where the run has changed since it was read, 404 where it is gone.
        """
        patch = diff_status(run.status, status)
        if not patch:
            return False
        body = {"metadata": {"resourceVersion": run.resource_version}, "status": patch}
        path = f"{collection_path(API_VERSION, run.namespace, PLURAL)}/{run.name}/status"
        await self.write("PATCH", path, body, content_type=MERGE_PATCH)
        return True

    async def write(self, method: str, path: str, body: Manifest, content_type: str = "application/json") -> Manifest:
        """Send a write, as long as this process leads. Raises NotLeaderError, ApiError."""
        return await self._kube.request(
            method, path, body=body, content_type=content_type, before_each=self._require_leadership
        )

    def _require_leadership(self) -> None:
        if not self._is_leader():
            raise NotLeaderError("not holding the lease any more")

    async def read(self, path: str) -> Manifest | None:
        """Read an object by its path; None where there is none. Raises ApiError."""
        try:
            return await self._kube.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def list_all(self, path: str, *, accept: str = "application/json", **parameters: str) -> list[Manifest]:
        """List a collection by its path. Raises ApiError."""
        items: list[Manifest] | None = (await self._kube.get(path, accept=accept, **parameters))["items"]
        return items or []  # null in an empty list of metadata

    async def _list(self, run: Run, kind: str) -> list[Manifest]:
        path = collection_path(_COLLECTIONS[kind][0], run.namespace, _COLLECTIONS[kind][1])
        return await self.list_all(path, labelSelector=f"{LABEL_RUN_UID}={run.uid}")

    async def _create(self, run: Run, manifest: Manifest) -> bool:
        """Create the object unless it is there. Return False where another's object has its name."""
        path = collection_path(manifest["apiVersion"], run.namespace, _COLLECTIONS[manifest["kind"]][1])
        try:
            await self.write("POST", path, manifest)
        except ApiError as error:
            # a quota that is used up refuses also what is there already
            if error.reason not in ("AlreadyExists", "Forbidden"):
                raise
            holder = await self.read(f"{path}/{manifest['metadata']['name']}")
            if holder is None:
                raise
            return is_owned_by(holder, run.uid)
        return True

    async def _delete(self, run: Run, action: Delete) -> None:
        api_version, plural = _COLLECTIONS[action.kind]
        path = f"{collection_path(api_version, run.namespace, plural)}/{action.name}"
        options = {
            "preconditions": {"uid": action.uid, "resourceVersion": action.resource_version},
            "propagationPolicy": "Background",
        }
        try:
            await self.write("DELETE", path, options)
        except ApiError as error:
            if error.status != 404:
                raise

    async def _patch(self, run: Run, action: PatchStatus) -> None:
        api_version, plural = _COLLECTIONS[action.kind]
        path = f"{collection_path(api_version, run.namespace, plural)}/{action.name}/status"
        body = {"metadata": {"resourceVersion": action.resource_version}, "status": action.fields}
        try:
            await self.write("PATCH", path, body, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.status != 404:
                raise


def _describe(action: Action, error: ApiError) -> str:
    match action:
        case Create(manifest):
            return f"cannot create {manifest['kind']} {manifest['metadata']['name']}: {error}"
        case Delete(kind, name):
            return f"cannot delete {kind} {name}: {error}"
        case PatchStatus(kind, name):
            return f"cannot patch the status of {kind} {name}: {error}"
