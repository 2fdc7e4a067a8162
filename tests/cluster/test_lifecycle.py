"""What only a real control plane shows of a run that stands still: pods without a node, a rank that hangs."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    return runs.upload_corpus(cluster, "corpora/lifecycle")


def occupy_a_node(cluster: Cluster) -> None:
    """Run a pod of somebody else's that holds all GPUs of one of the two nodes."""
    container = {
        "name": "main",
        "image": "none",
        "command": ["sleep", "600"],
        "resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "10m", "memory": "16Mi"}},
    }
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "occupant"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
        }
    )
    cluster.kubectl("wait", "pod/occupant", "--for=condition=PodScheduled", "--timeout=30s")


def test_a_run_of_which_only_a_part_finds_a_node_is_given_back_goes_on_smaller_and_is_deleted_after_its_ttl(
    cluster: Cluster, corpus: str
) -> None:
    occupy_a_node(cluster)
    run = runs.manifest(
        "half-a-place",
        corpus,
        compute={"nodes": 2, "minNodes": 1, "gpusPerNode": 2, "processesPerNode": 1},
        recovery={"startupTimeoutSeconds": 20},
        ttlSecondsAfterFinished=3600,
    )
    try:
        runs.apply(cluster, run)
        given_back = runs.wait_for(
            cluster, "half-a-place", lambda seen: seen.get("restarts", {}).get("startups"), "startup timeout"
        )
        failure = given_back["lastFailure"]
        assert failure["reason"] == "Unschedulable"
        assert "1 of 2 pods started within 20 s" in failure["message"]
        assert "Insufficient nvidia.com/gpu" in failure["message"]
        final = runs.wait_for_phase(cluster, "half-a-place", "Succeeded")
    finally:
        cluster.kubectl("delete", "pod", "occupant", "--ignore-not-found")
    assert (final["attempt"], final["nodes"], final["gpus"]) == (2, 1, 2)
    assert final["restarts"] == runs.NO_RESTARTS | {"startups": 1}
    assert runs.metric_steps(cluster, "half-a-place") == list(range(1, 41))
    cluster.kubectl("patch", "trun", "half-a-place", "--type=merge", "-p", '{"spec":{"ttlSecondsAfterFinished":0}}')
    wait_until(lambda: cluster.kubectl("get", "trun", "half-a-place", check=False).returncode, 30)
    assert runs.weights_digest(cluster, "half-a-place")


def test_a_rank_that_hangs_is_found_its_peers_leave_their_stacks_and_the_run_goes_on(
    cluster: Cluster, corpus: str
) -> None:
    training: dict[str, Any] = {"steps": 100, "sequenceLength": 64, "batchSequences": 8}
    run = runs.manifest("hanging", corpus, training=training, recovery={"stallTimeoutSeconds": 5})
    run["spec"]["recovery"]["terminationGracePeriodSeconds"] = 5
    runs.apply(cluster, run)
    runs.wait_for_checkpoint(cluster, "hanging", 5)
    runs.rank_processes("hanging")[1].send_signal(signal.SIGSTOP)
    settled = runs.wait_for(cluster, "hanging", lambda seen: seen.get("lastFailure"), "end of the attempt")
    failure = settled["lastFailure"]
    assert (failure["reason"], failure["exitCode"], failure["rank"]) == ("Stalled", 79, 0)
    assert "the stacks of every rank are below s3://runyard/out/hanging/stacks/attempt-1/" in failure["message"]
    stacks = cluster.s3().get_object(Bucket=runs.BUCKET, Key="out/hanging/stacks/attempt-1/rank-0.txt")["Body"].read()
    assert b"runyard_trainer/train.py" in stacks
    final = runs.wait_for_phase(cluster, "hanging", "Succeeded")
    assert (final["attempt"], final["restarts"]["failures"]) == (2, 1)
    events = cluster.kubectl("events", "--for", "trun/hanging").stdout
    for reason in ("Preparing", "Starting", "Running", "AttemptFailed", "Recovering", "Succeeded"):
        assert reason in events
