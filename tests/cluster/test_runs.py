"""Whole runs on a real control plane: applied with kubectl, trained by real processes, broken on purpose.

The undisturbed run comes first; every disturbed one has the same recipe and must leave the same bits.
"""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until

SLOW_ENOUGH_TO_DISTURB = {"steps": 150, "sequenceLength": 64, "batchSequences": 8, "learningRate": 0.003}
EVERY = 10


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    return runs.upload_corpus(cluster, "corpora/tiny")


def disturbable(name: str, corpus: str) -> dict[str, Any]:
    return runs.manifest(name, corpus, training=SLOW_ENOUGH_TO_DISTURB, checkpoint={"everySteps": EVERY})


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, corpus: str) -> str:
    """Return the digest of the weights that every disturbed run has to arrive at."""
    runs.apply(cluster, disturbable("undisturbed", corpus))
    runs.wait_for_phase(cluster, "undisturbed", "Succeeded")
    return runs.weights_digest(cluster, "undisturbed")


def assert_survived(cluster: Cluster, name: str, undisturbed: str, *, attempts: int) -> dict[str, Any]:
    """Check that it ended Succeeded, with the same bits, every step exactly once, and no attempt twice."""
    final = assert_arrived(cluster, name, undisturbed, attempts=attempts)
    assert runs.job_names(cluster, name) == [*(f"{name}-a{n}" for n in range(1, attempts + 1)), f"{name}-prepare"]
    return final


def assert_arrived(cluster: Cluster, name: str, undisturbed: str, *, attempts: int) -> dict[str, Any]:
    """Check that it ended Succeeded, with the same bits and every step exactly once."""
    final = runs.wait_for_phase(cluster, name, "Succeeded")
    assert final["attempt"] == attempts
    assert runs.metric_steps(cluster, name) == list(range(1, SLOW_ENOUGH_TO_DISTURB["steps"] + 1))
    assert runs.weights_digest(cluster, name) == undisturbed
    return final


def test_an_applied_run_trains_and_leaves_a_model(cluster: Cluster, undisturbed: str) -> None:
    final = runs.status(cluster, "undisturbed")
    assert final["mode"] == "PreTraining"
    assert final["attempt"] == 1
    assert final["restarts"] == runs.NO_RESTARTS
    assert final["progress"]["step"] == final["progress"]["totalSteps"] == SLOW_ENOUGH_TO_DISTURB["steps"]
    assert final["checkpoint"]["step"] == SLOW_ENOUGH_TO_DISTURB["steps"]
    assert final["result"]["uri"].rstrip("/") == "s3://runyard/out/undisturbed/model"
    assert final["result"]["after"]["domainLoss"] < final["result"]["before"]["domainLoss"]
    assert final["resolved"]["learningRate"]
    conditions = {condition["type"]: condition["status"] for condition in final["conditions"]}
    assert conditions["Ready"] == conditions["Succeeded"] == "True"
    assert conditions["Reconciling"] == "False"
    listed = {
        item["Key"] for item in cluster.s3().list_objects_v2(Bucket="runyard", Prefix="out/undisturbed/")["Contents"]
    }
    for name in ("model/model.safetensors", "model/config.json", "model/README.md", "model/tokenizer.json",
                 "metrics.csv", "eval.json", "lineage.json", "report.html", "run.json", "head.json"):  # fmt: skip
        assert f"out/undisturbed/{name}" in listed


def test_kubectl_shows_the_run_in_columns_and_waits_for_it(cluster: Cluster, undisturbed: str) -> None:
    cluster.kubectl("wait", "trun/undisturbed", "--for=condition=Succeeded", "--timeout=5s")
    header, row = cluster.kubectl("get", "trun", "undisturbed").stdout.splitlines()
    assert header.split() == ["NAME", "PHASE", "MODE", "STEP", "LOSS", "ETA", "ATTEMPT", "GPUS", "AGE"]
    assert row.split()[:4] == ["undisturbed", "Succeeded", "PreTraining", str(SLOW_ENOUGH_TO_DISTURB["steps"])]
    described = cluster.kubectl("describe", "trun", "undisturbed").stdout
    assert "Succeeded" in described.split("Events:")[1]


def test_a_rank_killed_mid_run_costs_at_most_an_interval_and_no_bit(
    cluster: Cluster, corpus: str, undisturbed: str
) -> None:
    runs.apply(cluster, disturbable("rank-killed", corpus))
    runs.wait_for_checkpoint(cluster, "rank-killed", 2 * EVERY)
    following = runs.follow_rank_0_logs(cluster, "rank-killed", attempt=1)
    assert following.stdout is not None
    begun = following.stdout.readline()  # now it is followed, whenever its pod goes
    runs.rank_processes("rank-killed")[1].send_signal(signal.SIGKILL)
    final = assert_survived(cluster, "rank-killed", undisturbed, attempts=2)
    assert final["restarts"]["failures"] == 1
    assert final["lastFailure"]["attempt"] == 1
    assert final["lastFailure"]["rank"] == 1
    assert final["lastFailure"]["exitCode"] == 137
    printed = begun + following.stdout.read()  # ends with its pod
    committed = re.findall(r"checkpoint of step (\d+): .* committed", printed)
    resumed = re.findall(
        r"continuing from the checkpoint of step (\d+)", runs.rank_0_logs(cluster, "rank-killed", attempt=2)
    )
    # rank 0 may have been told to end between a commit and its line in the log
    newest = max(2 * EVERY, *map(int, committed))
    assert len(resumed) == 1
    assert int(resumed[0]) >= newest, "the next attempt goes on from the last commit"
    assert list(map(int, committed)) == list(range(EVERY, int(committed[-1]) + 1, EVERY)), (
        "an interval was not committed"
    )


def test_a_pod_deleted_mid_run_costs_no_bit(cluster: Cluster, corpus: str, undisturbed: str) -> None:
    runs.apply(cluster, disturbable("pod-killed", corpus))
    runs.wait_for_checkpoint(cluster, "pod-killed", 2 * EVERY)
    pods = cluster.get_json("pods", "-l", "runyard.dev/run=pod-killed,runyard.dev/role=train")["items"]
    cluster.kubectl("delete", "pod", pods[0]["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")
    final = assert_survived(cluster, "pod-killed", undisturbed, attempts=2)
    assert final["restarts"]["failures"] + final["restarts"]["disruptions"] == 1


def find_node_without_operator(cluster: Cluster) -> str:
    (operator,) = cluster.get_json("pods", "-n", "runyard-system")["items"]
    return next(name for name in cluster.instance.node_names if name != operator["spec"]["nodeName"])


def signal_node(cluster: Cluster, node: str, signum: int) -> None:
    """Signal everything on a node at once: its agent and all processes of its pods."""
    agent = cluster.instance.processes.find(node)
    assert agent is not None
    for process in (agent, *agent.descendants()):
        process.send(signum)


@pytest.mark.full
def test_a_node_that_freezes_is_left_for_the_other_and_does_no_harm_when_it_is_back(
    cluster: Cluster, corpus: str, undisturbed: str
) -> None:
    node = find_node_without_operator(cluster)
    runs.apply(cluster, disturbable("node-lost", corpus))
    runs.wait_for_checkpoint(cluster, "node-lost", 2 * EVERY)
    signal_node(cluster, node, signal.SIGSTOP)
    try:
        # of attempt 1: its rank on the other node waits for the frozen one, and nothing is committed meanwhile
        frozen_at = runs.read_json(cluster, "out/node-lost/head.json")["checkpoint"]["step"]
        runs.wait_for_checkpoint(cluster, "node-lost", frozen_at + 2 * EVERY)
    finally:
        signal_node(cluster, node, signal.SIGCONT)
    final = assert_arrived(cluster, "node-lost", undisturbed, attempts=2)
    assert "node-lost-a1" not in runs.job_names(cluster, "node-lost"), "its pods would go on"
    assert (final["lastFailure"]["reason"], final["lastFailure"]["node"]) == ("NodeLost", node)
    assert (final["restarts"]["disruptions"], final["restarts"]["failures"]) == (1, 0)
    cluster.kubectl("wait", f"node/{node}", "--for=condition=Ready", "--timeout=60s")
    wait_until(lambda: not runs.rank_processes("node-lost"), 60)


def test_the_operator_killed_mid_run_changes_nothing(cluster: Cluster, corpus: str, undisturbed: str) -> None:
    runs.apply(cluster, disturbable("operator-killed", corpus))
    runs.wait_for_checkpoint(cluster, "operator-killed", EVERY)
    cluster.kill_operator()
    assert_survived(cluster, "operator-killed", undisturbed, attempts=1)


def test_a_suspended_run_stops_and_goes_on_where_it_was(cluster: Cluster, corpus: str, undisturbed: str) -> None:
    runs.apply(cluster, disturbable("suspended", corpus))
    runs.wait_for_checkpoint(cluster, "suspended", EVERY)
    cluster.kubectl("patch", "trun", "suspended", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    runs.wait_for_phase(cluster, "suspended", "Suspended")
    assert cluster.get_json("pods", "-l", "runyard.dev/run=suspended,runyard.dev/role=train")["items"] == []
    stopped_at = runs.read_json(cluster, "out/suspended/head.json")["checkpoint"]["step"]
    assert stopped_at % EVERY or stopped_at > EVERY, "SIGTERM saved nothing"
    cluster.kubectl("patch", "trun", "suspended", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    final = runs.wait_for_phase(cluster, "suspended", "Succeeded")
    assert final["restarts"] == runs.NO_RESTARTS
    assert runs.metric_steps(cluster, "suspended") == list(range(1, SLOW_ENOUGH_TO_DISTURB["steps"] + 1))
    assert runs.weights_digest(cluster, "suspended") == undisturbed


def test_a_deleted_run_leaves_nothing_in_the_cluster_and_everything_on_s3(cluster: Cluster, corpus: str) -> None:
    runs.apply(cluster, disturbable("deleted", corpus))
    runs.wait_for_checkpoint(cluster, "deleted", EVERY)
    assert "finalizers" not in cluster.get_json("trun", "deleted")["metadata"]
    cluster.kubectl("delete", "trun", "deleted", "--wait=true", "--timeout=20s")

    def nothing_is_left() -> bool:
        return not cluster.get_json("jobs,pods,services,configmaps", "-l", "runyard.dev/run=deleted")["items"]

    wait_until(nothing_is_left, 60)
    wait_until(lambda: not runs.rank_processes("deleted"), 30)
    assert runs.read_json(cluster, "out/deleted/head.json")["checkpoint"]["step"] >= EVERY


def test_a_run_that_keeps_failing_ends_failed_with_the_reason(cluster: Cluster, corpus: str) -> None:
    run = disturbable("keeps-failing", corpus)
    run["spec"]["recovery"]["maxFailures"] = 0
    runs.apply(cluster, run)
    runs.wait_for_checkpoint(cluster, "keeps-failing", EVERY)
    runs.rank_processes("keeps-failing")[0].send_signal(signal.SIGKILL)
    wait_until(lambda: runs.status(cluster, "keeps-failing").get("phase") == "Failed", 60)
    final = runs.status(cluster, "keeps-failing")
    assert final["lastFailure"]["rank"] == 0
    assert final["lastFailure"]["exitCode"] == 137
    assert final["lastFailure"]["logTail"]
    failed = next(condition for condition in final["conditions"] if condition["type"] == "Failed")
    assert failed["status"] == "True"
    assert "maxFailures" in failed["message"]
