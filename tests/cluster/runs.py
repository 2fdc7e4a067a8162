"""Runs in end-to-end tests: write and apply one, wait for it, find its processes, read what it left."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from typing import Any

import psutil
import yaml

from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until

BUCKET = "runyard"
TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
NO_RESTARTS = {"failures": 0, "disruptions": 0, "preemptions": 0, "startups": 0, "failuresSinceCheckpoint": 0}
"""`status.restarts` of a run to which nothing has happened."""


def upload_corpus(cluster: Cluster, prefix: str, *, num_documents: int = 60) -> str:
    """Upload a small made-up corpus as JSONL, and return its URI."""
    words = "the run keeps its shards in order and reads them back".split()  # noqa: SIM905 - reads as the text it makes
    lines = []
    for number in range(num_documents):
        picked = [words[(number * 7 + place * place) % len(words)] for place in range(80)]
        lines.append(json.dumps({"text": f"Document {number}. " + " ".join(picked)}))
    cluster.s3().put_object(Bucket=BUCKET, Key=f"{prefix}/corpus.jsonl", Body="\n".join(lines).encode())
    return f"s3://{BUCKET}/{prefix}/"


def manifest(name: str, corpus: str, **overrides: Any) -> dict[str, Any]:
    """Build a run of two pods of one rank each that takes some seconds; `overrides` replace fields of the spec."""
    spec: dict[str, Any] = {
        "model": {"scratch": {"config": TINY_LLAMA, "tokenizer": {"train": {"vocabSize": 400}}}},
        "data": {"train": [{"uri": corpus}], "validation": {"fraction": 0.1}},
        "training": {"steps": 40, "sequenceLength": 64, "batchSequences": 4, "learningRate": 0.003},
        "checkpoint": {"everySteps": 5},
        "output": {"uri": f"s3://{BUCKET}/out/{name}"},
        "compute": {"nodes": 2, "gpusPerNode": 1},
        "recovery": {"terminationGracePeriodSeconds": 30},
    }
    spec.update(overrides)
    return {"apiVersion": "runyard.dev/v1alpha1", "kind": "TrainingRun", "metadata": {"name": name}, "spec": spec}


def apply(cluster: Cluster, run: dict[str, Any], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    return cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(run), check=check)


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    return dict(cluster.get_json("trainingrun", name).get("status", {}))


def describe(cluster: Cluster, name: str) -> str:
    """Return all that helps to understand why a run is not where a test wants it."""
    parts = [
        json.dumps(status(cluster, name), indent=1),
        cluster.kubectl("get", "jobs,pods", "-l", f"runyard.dev/run={name}", "-o", "wide", check=False).stdout,
        cluster.kubectl("logs", "-l", f"runyard.dev/run={name}", "--tail=15", "--prefix", check=False).stdout,
    ]
    return "\n".join(parts)


def wait_for(
    cluster: Cluster, name: str, condition: Callable[[dict[str, Any]], object], what: str, *, deadline_s: float = 180
) -> dict[str, Any]:
    """Wait until a run's status meets a condition; a run that failed meanwhile ends the wait at once."""
    seen: dict[str, Any] = {}

    def holds() -> bool:
        seen.clear()
        seen.update(status(cluster, name))
        if condition(seen):
            return True
        assert seen.get("phase") != "Failed", f"{name} failed while waiting for {what}:\n{describe(cluster, name)}"
        return False

    try:
        wait_until(holds, deadline_s)
    except TimeoutError as error:
        raise AssertionError(f"{name}: no {what} in {deadline_s:.0f} s:\n{describe(cluster, name)}") from error
    return seen


def wait_for_phase(cluster: Cluster, name: str, phase: str, *, deadline_s: float = 180) -> dict[str, Any]:
    return wait_for(cluster, name, lambda seen: seen.get("phase") == phase, f"phase {phase}", deadline_s=deadline_s)


def wait_for_checkpoint(cluster: Cluster, name: str, step: int) -> dict[str, Any]:
    """Wait until the store has a committed checkpoint of at least this step, and return head.json."""
    seen: dict[str, Any] = {}

    def committed() -> bool:
        seen.update(read_json(cluster, f"out/{name}/head.json", default={}))
        return bool((seen.get("checkpoint") or {}).get("step", 0) >= step)

    wait_until(committed, 120)
    return seen


def rank_processes(name: str) -> dict[int, psutil.Process]:
    """Find the worker processes of a run on this machine, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            is_worker = "runyard_trainer" in process.cmdline() and "train" in process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if is_worker and environment.get("RUNYARD_RUN_NAME") == name and "RANK" in environment:
            found[int(environment["RANK"])] = process
    return found


def read_json(cluster: Cluster, key: str, default: Any = None) -> Any:
    s3 = cluster.s3()
    try:
        return json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        if default is None:
            raise
        return default


def weights_digest(cluster: Cluster, name: str) -> str:
    """Return the sha256 of the exported weights."""
    body = cluster.s3().get_object(Bucket=BUCKET, Key=f"out/{name}/model/model.safetensors")["Body"].read()
    return hashlib.sha256(body).hexdigest()


def metric_steps(cluster: Cluster, name: str) -> list[int]:
    """Read the step column of metrics.csv."""
    body = cluster.s3().get_object(Bucket=BUCKET, Key=f"out/{name}/metrics.csv")["Body"].read().decode()
    header, *rows = body.strip().splitlines()
    column = header.split(",").index("step")
    return [int(row.split(",")[column]) for row in rows]


def job_names(cluster: Cluster, name: str) -> list[str]:
    items = cluster.get_json("jobs", "-l", f"runyard.dev/run={name}")["items"]
    return sorted(item["metadata"]["name"] for item in items)


def rank_0_logs(cluster: Cluster, name: str, attempt: int) -> str:
    """Read everything that the pod of rank 0 has printed in an attempt."""
    selector = f"runyard.dev/run={name},runyard.dev/attempt={attempt},batch.kubernetes.io/job-completion-index=0"
    return cluster.kubectl("logs", "--selector", selector, "--tail=-1").stdout


def follow_rank_0_logs(cluster: Cluster, name: str, attempt: int) -> subprocess.Popen[str]:
    """Start `kubectl logs` of the pod of rank 0 while it runs: where another pod fails, the Job controller deletes it.

    Its log goes with it.
    """
    selector = f"runyard.dev/run={name},runyard.dev/attempt={attempt},batch.kubernetes.io/job-completion-index=0"
    kubectl = [str(cluster.instance.kubectl), f"--kubeconfig={cluster.kubeconfig}"]
    return subprocess.Popen(
        [*kubectl, "logs", "--follow", "--selector", selector, "--tail=-1"], stdout=subprocess.PIPE, text=True
    )


def job_events(cluster: Cluster, name: str) -> list[str]:
    """Read what the Job controller says of a run's Jobs."""
    events = cluster.get_json("events")["items"]
    return [
        event.get("message", "")
        for event in events
        if event["involvedObject"]["kind"] == "Job" and event["involvedObject"]["name"].startswith(f"{name}-a")
    ]
