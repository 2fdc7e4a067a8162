"""What Kueue says, read through a real API server; the test plays Kueue's part, its visibility server included."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

import aiohttp
import pytest
from aiohttp import web
from runyard.cluster.client import ApiError, Kube, connect
from runyard.cluster.kueue import (
    KUEUE_API_VERSION,
    POSITIONS_INTERVAL_S,
    UNSERVED_INTERVAL_S,
    VISIBILITY_API_VERSION,
    KueueReader,
)
from runyard.cluster.objects import collection_path
from runyard.decide.rules.kueue import build_place
from runyard.decide.values import KueueView, Manifest, QueuePosition, Run
from runyard_local.servers.certs import make_certs

from tests.builders import SETTINGS, make_run
from tests.cluster.kueue import build_visibility_service
from tests.ports import free_port

pytestmark = pytest.mark.usefixtures("as_administrator")

GROUP, VERSION = KUEUE_API_VERSION.split("/")
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SERVICES = {
    "Service": "/api/v1/namespaces/kueue-system/services",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "APIService": "/apis/apiregistration.k8s.io/v1/apiservices",
}
HELD = {"type": "QuotaReserved", "status": "False", "message": "2 more needed"}


class Asked(list[str]):
    """The paths below the visibility API that were asked for."""

    def tracer(self) -> aiohttp.TraceConfig:
        async def note(_: object, __: object, request: aiohttp.TraceRequestStartParams) -> None:
            if request.url.path.endswith("/pendingworkloads"):
                self.append(request.url.path)

        tracer = aiohttp.TraceConfig()
        tracer.on_request_start.append(note)
        return tracer


def build_crd(kind: str, plural: str, scope: str) -> Manifest:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GROUP}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, played by a test"},
        },
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {"kind": kind, "plural": plural},
            "versions": [{"name": VERSION, "served": True, "storage": True, "schema": schema}],
        },
    }


def build_workload(run: Run, *conditions: dict[str, str]) -> Manifest:
    uid = uid_of_place(run)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"{run.name}-place", "uid": uid, "controller": True}
    metadata = {"name": run.name, "labels": {"kueue.x-k8s.io/job-uid": uid}, "ownerReferences": [owner]}
    return {
        "apiVersion": KUEUE_API_VERSION,
        "kind": "Workload",
        "metadata": metadata,
        "status": {"conditions": list(conditions)},
    }


def uid_of_place(run: Run) -> str:
    return str(uuid5(UUID(run.uid), "place"))


def make_held(run: Run) -> Manifest:
    """Build the place of a run, as stored."""
    assert run.spec is not None
    place = build_place(run, run.spec, SETTINGS)
    place["metadata"] |= {"uid": uid_of_place(run)}
    return place


@asynccontextmanager
async def serve_positions(folder: Path, positions: dict[str, tuple[int, int]]) -> AsyncIterator[int]:
    """Answer as Kueue's visibility server does, for the Jobs with these uids; yield the port."""
    await asyncio.to_thread(make_certs, folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "apiserver.crt", folder / "apiserver.key")

    async def discover(_: web.Request) -> web.Response:
        kind = {"name": "localqueues/pendingworkloads", "namespaced": True, "kind": "PendingWorkloadsSummary"}
        found = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": VISIBILITY_API_VERSION}
        return web.json_response(found | {"resources": [kind | {"verbs": ["get"]}]})

    async def list_pending(_: web.Request) -> web.Response:
        items = [
            {
                "metadata": {"ownerReferences": [{"uid": uid}]},
                "positionInLocalQueue": in_queue,
                "positionInClusterQueue": in_cluster_queue,
            }
            for uid, (in_queue, in_cluster_queue) in positions.items()
        ]
        return web.json_response({"kind": "PendingWorkloadsSummary", "items": items})

    app, port, root = web.Application(), free_port(), f"/apis/{VISIBILITY_API_VERSION}"
    app.add_routes(
        [web.get(root, discover), web.get(root + "/namespaces/{space}/localqueues/gpus/pendingworkloads", list_pending)]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "localhost", port, ssl_context=context).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def installed(kube: Kube, objects: list[tuple[str, Manifest]]) -> AsyncIterator[None]:
    """Create the objects, by the path of their collection, and delete them at the end of the context."""
    for path, manifest in objects:
        await kube.request("POST", path, body=manifest)
    try:
        yield
    finally:
        for path, manifest in reversed(objects):
            await kube.request("DELETE", f"{path}/{manifest['metadata']['name']}", body={})


async def wait_until_answered(ask: Callable[[], Awaitable[Any]]) -> None:
    """Ask until it is answered: what was just installed takes a moment to be served."""
    end_s = asyncio.get_running_loop().time() + 60
    while True:
        try:
            await ask()
        except ApiError:
            assert asyncio.get_running_loop().time() < end_s
            await asyncio.sleep(0.1)
        else:
            return


def test_what_kueue_says_is_read_as_far_as_it_is_there_and_positions_once_for_all_runs_of_a_queue(
    tmp_path: Path,
) -> None:
    namespace, asked, clock_s = f"queues-{uuid4().hex[:8]}", Asked(), [0.0]
    queue = {"name": "gpus", "priorityClassName": "urgent"}
    first, second = (
        replace(make_run(queue=queue), namespace=namespace, name=name, uid=str(uuid4())) for name in ("a", "b")
    )
    told = f"Preempted to accommodate a workload (UID: x, JobUID: {uid_of_place(second)}) due to prioritization"
    preempted = {"type": "Preempted", "status": "True", "message": told}
    workloads = collection_path(KUEUE_API_VERSION, namespace, "workloads")
    classes = f"/apis/{KUEUE_API_VERSION}/workloadpriorityclasses"
    priority = {"apiVersion": KUEUE_API_VERSION, "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}}
    kinds = [("Workload", "workloads", "Namespaced"), ("WorkloadPriorityClass", "workloadpriorityclasses", "Cluster")]

    async def story() -> None:
        async with connect(asked.tracer()) as kube:
            reader = KueueReader(kube, lambda: clock_s[0])
            for name in (namespace, "kueue-system"):
                await kube.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
            assert await reader.read(first, [make_held(first)]) == KueueView()
            assert await reader.read(first, []) == KueueView()

            async with installed(kube, [(CRDS, build_crd(*kind)) for kind in kinds]):
                await wait_until_answered(lambda: kube.get(workloads))
                await wait_until_answered(lambda: kube.request("POST", classes, body=priority))
                assert await reader.read(first, []) == KueueView(priority_kinds=frozenset({"WorkloadPriorityClass"}))
                await kube.request("POST", workloads, body=build_workload(first, HELD, preempted))
                await kube.request("POST", workloads, body=build_workload(second, HELD))

                async def read_both() -> list[QueuePosition | None]:
                    views = await asyncio.gather(*(reader.read(run, [make_held(run)]) for run in (first, second)))
                    assert [view.preemptor for view in views] == ["Job b-place", None]
                    return [view.position for view in views]

                # not served: asked once for both, and then not for a while
                assert await read_both() == [None, None]
                clock_s[0] += UNSERVED_INTERVAL_S - 1
                assert await read_both() == [None, None]
                assert len(asked) == 1

                positions = {uid_of_place(first): (1, 3), uid_of_place(second): (0, 0)}
                async with serve_positions(tmp_path / "certs", positions) as port:
                    objects = [(SERVICES[each["kind"]], each) for each in build_visibility_service(port)]
                    async with installed(kube, objects):
                        path = f"/apis/{VISIBILITY_API_VERSION}/namespaces/{namespace}/localqueues/gpus"
                        await wait_until_answered(lambda: kube.get(f"{path}/pendingworkloads"))
                        asked.clear()
                        clock_s[0] += 1
                        assert await read_both() == [QueuePosition(1, 3), QueuePosition(0, 0)]
                        positions.clear()
                        clock_s[0] += POSITIONS_INTERVAL_S - 1
                        assert await read_both() == [QueuePosition(1, 3), QueuePosition(0, 0)]
                        clock_s[0] += 1
                        assert await read_both() == [None, None]
                        assert len(asked) == 2

                # admitted, or not of Kueue at all: nothing is asked
                open_place = make_held(first)
                open_place["spec"]["suspend"] = False
                assert await reader.read(first, [open_place]) == KueueView()
                assert await reader.read(make_run(), []) == KueueView()

    asyncio.run(story())
