"""A GPUBudget on a real control plane: it counts what runs cost, and keeps the next one from starting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from runyard.api.trainingrun import API_VERSION

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    return runs.upload_corpus(cluster, "corpora/budget")


@pytest.fixture
def budget(cluster: Cluster) -> Iterator[str]:
    """Set a budget of less than a run takes."""
    name = "some-seconds"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
    spec = {"namespaceSelector": selector, "gpuHours": 0.001, "action": "Block"}
    cluster.apply({"apiVersion": API_VERSION, "kind": "GPUBudget", "metadata": {"name": name}, "spec": spec})
    yield name
    cluster.kubectl("delete", "gpubudget", name)
    wait_until(lambda: not ledgers(cluster), 60)


def ledgers(cluster: Cluster) -> list[str]:
    listed = cluster.get_json("configmaps", "-n", "runyard-system")["items"]
    return [each["metadata"]["name"] for each in listed if each["metadata"]["name"].startswith("gpubudget-")]


def read_used(cluster: Cluster, budget: str) -> float:
    status: dict[str, Any] = cluster.get_json("gpubudget", budget).get("status", {})
    return float(status.get("used", 0))


def test_a_run_waits_while_its_budget_is_used_up_and_what_a_deleted_run_has_cost_stays(
    cluster: Cluster, corpus: str, budget: str
) -> None:
    runs.apply(cluster, runs.manifest("spends", corpus))
    runs.wait_for_phase(cluster, "spends", "Succeeded")
    wait_until(lambda: read_used(cluster, budget) >= 0.001, 60)
    cost_hours = runs.status(cluster, "spends")["gpuSeconds"]["allocated"] / 3600
    wait_until(lambda: read_used(cluster, budget) == pytest.approx(cost_hours, abs=0.01), 60)
    cluster.kubectl("wait", f"gpubudget/{budget}", "--for=condition=Exceeded", "--timeout=10s")
    used = read_used(cluster, budget)

    cluster.kill_operator()
    cluster.kubectl("delete", "trun", "spends", "--timeout=30s")
    runs.apply(cluster, runs.manifest("waits", corpus))
    queued = runs.wait_for_phase(cluster, "waits", "Queued")
    assert (
        f"GPUBudget {budget}: {used:.2f} of 0.001 GPU-hours of the last 30 days are used" in queued["queue"]["message"]
    )
    assert read_used(cluster, budget) == used
    assert runs.job_names(cluster, "waits") == ["waits-prepare"]

    cluster.kubectl("patch", "gpubudget", budget, "--type=merge", "-p", '{"spec":{"gpuHours":1}}')
    runs.wait_for(cluster, "waits", lambda seen: seen.get("attempt") == 1, "attempt", deadline_s=30)
    assert read_used(cluster, budget) >= used
    cluster.kubectl("delete", "trun", "waits", "--timeout=30s")
