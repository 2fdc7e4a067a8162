"""A tracked run on a real control plane: what its pods are given is enough to tell the server, and shown nowhere."""

from __future__ import annotations

import json

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.mlflow_server import CREDENTIALS, PASSWORD, running_small_server


def test_a_tracked_run_tells_each_step_once_and_its_status_has_the_page(cluster: Cluster) -> None:
    corpus = runs.upload_corpus(cluster, "corpora/tracked")
    literals = [f"--from-literal={name}={value}" for name, value in CREDENTIALS.items()]
    cluster.kubectl("create", "secret", "generic", "mlflow-key", *literals)
    with running_small_server() as server:
        mlflow = {"uri": server.uri, "secretName": "mlflow-key"}
        runs.apply(cluster, runs.manifest("tracked", corpus, tracking={"mlflow": mlflow}))
        final = runs.wait_for_phase(cluster, "tracked", "Succeeded")
        uid = cluster.get_json("trainingrun", "tracked")["metadata"]["uid"]
        told, steps = server.run_of(uid), [step for step, _ in server.read_history(uid, "train/loss")]
    assert steps == list(range(1, final["progress"]["totalSteps"] + 1))
    assert told["info"]["status"] == "FINISHED"
    ids = f"experiments/{told['info']['experiment_id']}/runs/{told['info']['run_id']}"
    assert final["result"]["tracking"] == f"{server.uri}/#/{ids}"
    logs = cluster.kubectl("logs", "-l", "runyard.dev/run=tracked", "--tail=-1").stdout
    events = json.dumps(cluster.get_json("events"))
    assert PASSWORD not in logs + events + json.dumps(cluster.get_json("trainingruns,jobs,pods"))
    cluster.kubectl("delete", "trainingrun/tracked", "secret/mlflow-key")
