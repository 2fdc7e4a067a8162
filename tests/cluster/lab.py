"""A namespace with one run in it, seen as the operator sees it: for tests of the operator's I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from runyard.api.trainingrun import API_VERSION, LABEL_RUN, LABEL_RUN_UID
from runyard.cluster.client import Kube, connect
from runyard.cluster.objects import collection_path
from runyard.cluster.runs import Cluster
from runyard.decide.values import Create, Key, Manifest, Run

SPEC = {
    "model": {"uri": "s3://models/base"},
    "data": {"train": [{"uri": "s3://corpora/text/"}]},
    "output": {"uri": "s3://models/out"},
    "compute": {"nodes": 1, "gpusPerNode": 0},
}
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


POD_SPEC = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}
BODIES: dict[str, dict[str, Any]] = {
    # the Job controller leaves it alone: its writes would race with the tests' own
    "Job": {"spec": {"managedBy": "runyard.dev/tests", "template": {"spec": POD_SPEC}}},
    "ConfigMap": {"data": {"recipe.json": "{}"}},
    "Service": {"spec": {"clusterIP": "None", "selector": {"app": "x"}}},
}


@dataclass(frozen=True)
class Lab:
    """A namespace with one run in it, and the operator's view of the cluster."""

    kube: Kube
    cluster: Cluster
    key: Key

    def path(self, plural: str, api_version: str = "v1") -> str:
        return collection_path(api_version, self.key.namespace, plural)

    async def create(self, run: Run, *manifests: Manifest) -> None:
        applied = await self.cluster.apply(run, map(Create, manifests))
        assert not applied.failed, applied

    async def find(self, kind: str, name: str) -> Manifest:
        """Read an object of a kind that is in `BODIES`. Raises ApiError."""
        api_version = "batch/v1" if kind == "Job" else "v1"
        return await self.kube.get(f"{self.path(kind.lower() + 's', api_version)}/{name}")

    async def read_run(self) -> Run:
        run = await self.cluster.read_run(self.key)
        assert run is not None
        return run

    def build(self, kind: str, name: str, owner_uid: str) -> Manifest:
        """Build an object as decide/manifests does, as far as the I/O cares."""
        owner = {"apiVersion": API_VERSION, "kind": "TrainingRun", "name": self.key.name, "uid": owner_uid}
        return {
            "apiVersion": "batch/v1" if kind == "Job" else "v1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": self.key.namespace,
                "labels": {LABEL_RUN: self.key.name, LABEL_RUN_UID: owner_uid},
                "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": False}],
            },
        } | deepcopy(BODIES[kind])


@asynccontextmanager
async def open_lab(*, leads: Callable[[], bool] = lambda: True) -> AsyncIterator[Lab]:
    """Make a new namespace with a run named `cpt`."""
    async with connect() as kube:
        namespace = f"io-{uuid4().hex[:8]}"
        await kube.request("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
        lab = Lab(kube, Cluster(kube, leads), Key(namespace, "cpt"))
        body = {"apiVersion": API_VERSION, "kind": "TrainingRun", "metadata": {"name": "cpt"}, "spec": SPEC}
        await kube.request("POST", lab.path("trainingruns", API_VERSION), body=body)
        yield lab


def in_lab(story: Callable[[Lab], Awaitable[None]], *, leads: Callable[[], bool] = lambda: True) -> None:
    async def main() -> None:
        async with open_lab(leads=leads) as lab:
            await story(lab)

    asyncio.run(main())
