"""Runs that share a ResourceQuota: whole gangs or none, in order, and nobody waits for room that is there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.conftest import Cluster
from tests.waiting import wait_until

GPUS = 4
NAMES = [f"gang-{number}" for number in range(5)]
"""In the order in which they are made; each needs two of the four GPUs."""


@pytest.fixture
def quota(cluster: Cluster) -> Any:
    """Four GPUs for the namespace, until the test is over."""
    body = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus"},
        "spec": {"hard": {"requests.nvidia.com/gpu": str(GPUS)}},
    }
    cluster.apply(body)
    wait_until(lambda: cluster.get_json("resourcequota", "gpus").get("status", {}).get("used"), 30)
    yield
    cluster.kubectl("delete", "resourcequota", "gpus")


def gang(name: str, corpus: str, gpus_per_node: int = 1, steps: int = 3) -> dict[str, Any]:
    return runs.manifest(
        name,
        corpus,
        training={"steps": steps, "sequenceLength": 64, "batchSequences": 4, "learningRate": 0.003},
        compute={"nodes": 2, "gpusPerNode": gpus_per_node, "processesPerNode": 1},
        evaluation={"before": False},
    )


def pods_by_run(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for pod in cluster.get_json("pods", "-l", "runyard.dev/role=train")["items"]:
        found.setdefault(pod["metadata"]["labels"]["runyard.dev/run"], []).append(pod)
    return found


def test_gangs_start_whole_in_their_order_and_the_waiting_say_why(cluster: Cluster, quota: None) -> None:
    corpus = runs.upload_corpus(cluster, "corpora/quota")
    runs.apply(cluster, gang("large", corpus, gpus_per_node=2, steps=1_000_000))
    runs.wait_for_phase(cluster, "large", "Running")
    for name in NAMES:
        runs.apply(cluster, gang(name, corpus))
    for place, name in enumerate(NAMES, start=1):
        seen = runs.wait_for(cluster, name, lambda seen: seen.get("queue"), "place in the queue")
        assert seen["phase"] == "Queued"
        ahead = {1: "", 2: "; 1 run ahead"}.get(place, f"; {place - 1} runs ahead")
        runs.wait_for(
            cluster,
            name,
            lambda seen, ahead=ahead, place=place: (
                seen["queue"] == {"position": place, "message": f"needs 2 nvidia.com/gpu, gpus has 0 of 4 free{ahead}"}
            ),
            f"place {place}",
        )
    assert runs.job_names(cluster, NAMES[0]) == [f"{NAMES[0]}-prepare"]
    columns = cluster.kubectl("get", "trun", NAMES[0]).stdout
    assert "Queued" in columns

    cluster.kubectl("delete", "trun", "large", "--wait=false")
    split: list[str] = []

    def all_are_done() -> bool:
        for name, its_pods in pods_by_run(cluster).items():
            job = [event for event in runs.job_events(cluster, name) if "exceeded quota" in event]
            split.extend(f"{name}: {len(its_pods)} pods, {event}" for event in job)
        return all(runs.status(cluster, name).get("phase") == "Succeeded" for name in NAMES)

    wait_until(all_are_done, 240)
    assert not split, split
    started = [
        min(pod["metadata"]["creationTimestamp"] for pod in pods_by_run(cluster)[name])
        for name in NAMES
        if name in pods_by_run(cluster)
    ]
    for first, later in zip(started, started[GPUS // 2 :], strict=False):  # two that fit at once start in any order
        assert first <= later
