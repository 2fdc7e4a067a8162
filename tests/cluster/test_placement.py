"""Where pods find a node, a run's and the operator's own: on real nodes, with a real scheduler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.chart import apply, render
from tests.cluster.local_cluster import Cluster

TAINT = "nvidia.com/gpu=present:NoSchedule"


@pytest.fixture
def gpu_node(cluster: Cluster) -> Iterator[str]:
    """Taint one of the two nodes as GPU nodes are."""
    name: str = cluster.get_json("nodes")["items"][0]["metadata"]["name"]
    cluster.kubectl("taint", "node", name, TAINT)
    yield name
    cluster.kubectl("taint", "node", name, f"{TAINT}-")


def nodes_of(cluster: Cluster, name: str, role: str) -> set[str]:
    pods = cluster.get_json("pods", "-l", f"runyard.dev/run={name},runyard.dev/role={role}")["items"]
    return {pod["spec"]["nodeName"] for pod in pods}


def test_a_preparation_that_fits_no_node_is_mended_and_leaves_gpu_nodes_to_training(
    cluster: Cluster, gpu_node: str
) -> None:
    def is_unschedulable(seen: dict[str, Any]) -> bool:
        return any(each["reason"] == "Unschedulable" for each in seen.get("conditions", ()))

    run = runs.manifest(
        "placed",
        runs.upload_corpus(cluster, "corpora/placed"),
        compute={"nodes": 2, "gpusPerNode": 2, "processesPerNode": 1},
        prepare={"resources": {"cpu": "9999"}},
    )
    runs.apply(cluster, run)
    waiting = runs.wait_for(cluster, "placed", is_unschedulable, "a pod that no node takes")
    [ready] = [each for each in waiting["conditions"] if each["type"] == "Ready"]
    assert "Insufficient cpu" in ready["message"]
    assert "ask for less (prepare.resources)" in ready["message"]

    mended = json.dumps({"spec": {"prepare": {"resources": {"cpu": "100m"}}}})
    cluster.kubectl("patch", "trainingrun", "placed", "--type=merge", "-p", mended)
    runs.wait_for_phase(cluster, "placed", "Succeeded")
    assert gpu_node not in nodes_of(cluster, "placed", "prepare")
    assert gpu_node in nodes_of(cluster, "placed", "train")
    assert len(nodes_of(cluster, "placed", "train")) == 2
    cluster.kubectl("delete", "trainingrun", "placed")


def test_the_operators_replicas_stand_on_different_nodes_after_every_rollout(cluster: Cluster) -> None:
    namespace, name = "spread", "deployment/runyard-operator"
    cluster.kubectl("create", "namespace", namespace)
    [deployment] = [each for each in render(cluster, namespace=namespace) if each["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    del pod["serviceAccountName"]
    # where they stand is the test's: a second operator would serve the cluster as well
    pod["containers"] = [{"name": "operator", "image": "none", "command": ["sleep", "infinity"]}]
    pod["terminationGracePeriodSeconds"] = 0
    apply(cluster, [deployment])
    for revision in range(4):
        cluster.kubectl("rollout", "status", name, "--namespace", namespace, "--timeout=60s")
        pods = cluster.get_json("pods", "--namespace", namespace)["items"]
        there = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
        assert len({each["spec"]["nodeName"] for each in there}) == len(there) == 2
        # as `rollout restart` does, which tells two of one second not apart
        patch = {"spec": {"template": {"metadata": {"annotations": {"revision": str(revision)}}}}}
        cluster.kubectl("patch", name, "--namespace", namespace, "--type=merge", "-p", json.dumps(patch))
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")
