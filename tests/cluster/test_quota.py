"""Gangs and ResourceQuotas on a real control plane: its Job and quota controllers act, the test plays the kubelets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from runyard.api.trainingrun import API_VERSION
from runyard.cluster.client import MERGE_PATCH, Kube, connect
from runyard.cluster.objects import collection_path

from tests.cluster.conftest import Cluster as ControlPlane
from tests.cluster.lab import SPEC
from tests.cluster.test_operator_process import Place, wait_for_leader

GPUS_OF_A_POD = 1
PODS_OF_A_RUN = 2
ENDED = {"name": "trainer", "image": "none", "imageID": "none", "ready": False, "restartCount": 0}
DONE = {"phase": "Succeeded", "containerStatuses": [ENDED | {"state": {"terminated": {"exitCode": 0}}}]}


@pytest.fixture
def place(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    namespace = f"quota-{uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", namespace)
    return Place(control_plane, namespace, tmp_path)


@dataclass(frozen=True)
class Watcher:
    """Looks at a namespace, ends its pods well, and sees to it that no gang is ever refused a part of its pods."""

    kube: Kube
    namespace: str

    def path(self, plural: str, api_version: str = "v1") -> str:
        return collection_path(api_version, self.namespace, plural)

    async def list_all(self, plural: str, api_version: str = "v1") -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.kube.get(self.path(plural, api_version)))["items"]
        return items

    async def limit(self, name: str, hard: dict[str, str]) -> None:
        body = {"metadata": {"name": name}, "spec": {"hard": hard}}
        await self.kube.request("POST", self.path("resourcequotas"), body=body)

    async def raise_limit(self, name: str, hard: dict[str, str]) -> None:
        body = {"spec": {"hard": hard}}
        await self.kube.request("PATCH", self.path(f"resourcequotas/{name}"), body=body, content_type=MERGE_PATCH)

    async def submit(self, name: str, nodes: int = PODS_OF_A_RUN, **fields: Any) -> None:
        spec = SPEC | {"compute": {"nodes": nodes, "gpusPerNode": GPUS_OF_A_POD}} | fields
        body = {"apiVersion": API_VERSION, "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}
        await self.kube.request("POST", self.path("trainingruns", API_VERSION), body=body)

    async def status(self, name: str) -> dict[str, Any]:
        return dict((await self.kube.get(self.path(f"trainingruns/{name}", API_VERSION))).get("status", {}))

    async def end(self, role: str, run: str | None = None) -> None:
        """The pods of a role, and of one run, end with 0."""
        for pod in await self.list_all("pods"):
            labels = pod["metadata"]["labels"]
            is_meant = labels["runyard.dev/role"] == role and run in (None, labels["runyard.dev/run"])
            if is_meant and pod["status"]["phase"] == "Pending":
                path = self.path(f"pods/{pod['metadata']['name']}/status")
                await self.kube.request("PATCH", path, body={"status": DONE}, content_type=MERGE_PATCH)

    async def live_gangs(self) -> dict[str, int]:
        """Training pods that have not ended, by run."""
        found: dict[str, int] = {}
        for pod in await self.list_all("pods"):
            labels = pod["metadata"]["labels"]
            if labels["runyard.dev/role"] == "train" and pod["status"]["phase"] == "Pending":
                found[labels["runyard.dev/run"]] = found.get(labels["runyard.dev/run"], 0) + 1
        return found

    async def assert_no_gang_was_refused_a_pod(self) -> None:
        events = await self.list_all("events")
        assert not [event["message"] for event in events if event["reason"] == "FailedCreate"]

    async def wait_for(self, condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = 60) -> None:
        """Look again and again until the condition holds."""
        end_s = asyncio.get_running_loop().time() + deadline_s
        while not await condition():
            assert asyncio.get_running_loop().time() < end_s, f"not within {deadline_s:.0f} s: {what}"
            await asyncio.sleep(0.1)


async def run_all(place: Place, num_runs: int, num_gpus: int) -> None:
    """So many runs over so many GPUs finish in the order of their age, at most as many at once as fit, none in part."""
    names = [f"r{number:02}" for number in range(num_runs)]
    fit = num_gpus // (PODS_OF_A_RUN * GPUS_OF_A_POD)
    async with connect() as kube:
        watcher = Watcher(kube, place.namespace)
        await watcher.limit("gpus", {"requests.nvidia.com/gpu": "0"})
        for name in names:
            await watcher.submit(name)

        async def all_prepared() -> bool:
            await watcher.end("prepare")
            phases = [(await watcher.status(name)).get("phase") for name in names]
            return all(phase == "Queued" for phase in phases)

        await watcher.wait_for(all_prepared, "every run waits")
        await watcher.raise_limit("gpus", {"requests.nvidia.com/gpu": str(num_gpus)})
        started: set[str] = set()
        for _ in names:

            async def as_many_as_fit() -> bool:
                gangs = await watcher.live_gangs()
                assert sum(gangs.values()) <= num_gpus
                started.update(gangs)
                left = num_runs - len(started) + len(gangs)
                return list(gangs.values()) == [PODS_OF_A_RUN] * min(fit, left)

            await watcher.wait_for(as_many_as_fit, "as many as fit")
            assert started == set(names[: len(started)]), "not in the order of their age"
            first = min(await watcher.live_gangs())
            await watcher.end("train", first)
            seen = first

            async def is_done() -> bool:
                return (await watcher.status(seen)).get("phase") == "Succeeded"  # noqa: B023 - used in this turn only

            await watcher.wait_for(is_done, f"{first} has succeeded")
        assert started == set(names)
        await watcher.assert_no_gang_was_refused_a_pod()


def test_six_runs_over_four_gpus_all_finish_and_no_gang_ever_starts_in_part(place: Place) -> None:
    with place.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(run_all(place, num_runs=6, num_gpus=4))


@pytest.mark.full
def test_twenty_runs_over_eight_gpus_all_finish_and_no_gang_ever_starts_in_part(place: Place) -> None:
    with place.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(run_all(place, num_runs=20, num_gpus=8))


def test_a_run_that_waits_says_for_what_and_those_behind_it_wait_too_until_it_is_gone(place: Place) -> None:
    async def story() -> None:
        async with connect() as kube:
            watcher = Watcher(kube, place.namespace)
            await watcher.limit("gpus", {"requests.nvidia.com/gpu": "4"})

            async def phase_is(name: str, phase: str) -> bool:
                await watcher.end("prepare")
                return (await watcher.status(name)).get("phase") == phase

            for name, nodes, phase in (("a", 2, "Starting"), ("b", 4, "Queued"), ("c", 1, "Queued")):
                await watcher.submit(name, nodes=nodes)
                await watcher.wait_for(lambda name=name, phase=phase: phase_is(name, phase), phase)  # type: ignore[misc]
            assert (await watcher.status("b"))["queue"] == {
                "position": 0,
                "message": f"needs 4 nvidia.com/gpu, {place.namespace} has 2 of 4 free",
            }
            third = await watcher.status("c")
            assert third["queue"]["message"].endswith("has 2 of 4 free; 1 run ahead")
            admitted = next(condition for condition in third["conditions"] if condition["type"] == "Admitted")
            assert (admitted["status"], admitted["reason"]) == ("False", "Queued")
            await kube.request("DELETE", watcher.path("trainingruns/b", API_VERSION))
            await watcher.wait_for(lambda: phase_is("c", "Starting"), "c starts")
            assert "queue" not in await watcher.status("c")

    with place.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(story())
