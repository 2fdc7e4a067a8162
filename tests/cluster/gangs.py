"""Training pods without kubelets: a test looks at them and ends them, and no gang may ever get a part of its pods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from runyard.api.trainingrun import API_VERSION
from runyard.cluster.client import MERGE_PATCH, Kube
from runyard.cluster.objects import collection_path

from tests.cluster.lab import SPEC

GPUS_OF_A_POD = 1
PODS_OF_A_RUN = 2
ENDED = {"name": "trainer", "image": "none", "imageID": "none", "ready": False, "restartCount": 0}
DONE = {"phase": "Succeeded", "containerStatuses": [ENDED | {"state": {"terminated": {"exitCode": 0}}}]}


@dataclass(frozen=True)
class GangWatcher:
    """A namespace whose runs a test submits, whose pods it ends with 0, and whose gangs it counts."""

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
        """End the pods of a role, and of one run if it is named, with 0."""
        for pod in await self.list_all("pods"):
            labels = pod["metadata"]["labels"]
            is_meant = labels["runyard.dev/role"] == role and run in (None, labels["runyard.dev/run"])
            if is_meant and pod["status"]["phase"] == "Pending":
                path = self.path(f"pods/{pod['metadata']['name']}/status")
                await self.kube.request("PATCH", path, body={"status": DONE}, content_type=MERGE_PATCH)

    async def live_gangs(self) -> dict[str, int]:
        """Count the training pods that have not ended, by run."""
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
