"""Bad input that only storage can tell: found by prepare, before any training pod starts, and said in status.

What the API server itself refuses is in test_api.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster import runs
from tests.cluster.local_cluster import Cluster
from tests.waiting import wait_until

BUCKET = runs.BUCKET


def put(cluster: Cluster, key: str, body: bytes) -> None:
    cluster.s3().put_object(Bucket=BUCKET, Key=key, Body=body)


@pytest.fixture(scope="module")
def corpus(cluster: Cluster) -> str:
    return runs.upload_corpus(cluster, "corpora/bad-input")


@pytest.fixture(scope="module")
def broken(cluster: Cluster) -> None:
    """Upload everything that is wrong."""
    good = json.dumps({"text": "a line that is fine"})
    put(cluster, "bad/broken.jsonl", f'{good}\n{good}\n{{"text": "no end\n'.encode())
    put(cluster, "bad/column.jsonl", b'{"body": "the text is elsewhere"}\n')
    put(cluster, "bad/number.jsonl", b'{"text": 7}\n')
    put(cluster, "bad/empty/none.txt", b"")
    put(cluster, "bad/latin.txt", b"first line\nsecond caf\xe9 line\n")
    put(cluster, "bad/short.txt", b"too short")
    put(cluster, "bad/pickle-model/config.json", json.dumps({"model_type": "llama"}).encode())
    put(cluster, "bad/pickle-model/pytorch_model.bin", b"no")
    put(cluster, "bad/no-model/readme.txt", b"no")
    put(cluster, "out/taken/run.json", b'{"uid": "someone-else", "namespace": "other", "name": "first"}')


def scratch(**config: Any) -> dict[str, Any]:
    return {"scratch": {"config": {**runs.TINY_LLAMA, **config}, "tokenizer": {"train": {"vocabSize": 400}}}}


def train_on(key: str) -> dict[str, Any]:
    return {"data": {"train": [{"uri": f"s3://{BUCKET}/{key}"}]}}


CASES: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "broken-json-line": (train_on("bad/broken.jsonl"), "DataError", ["bad/broken.jsonl:3"]),
    "missing-column": (train_on("bad/column.jsonl"), "DataError", ["bad/column.jsonl:1", "text"]),
    "text-is-a-number": (train_on("bad/number.jsonl"), "DataError", ["bad/number.jsonl:1", "text"]),
    "empty-corpus": (train_on("bad/empty/"), "DataError", ["data.train"]),
    "no-such-prefix": (train_on("bad/nothing-here/"), "DataError", ["data.train[0].uri", "bad/nothing-here/"]),
    "not-utf-8": (train_on("bad/latin.txt"), "DataError", ["bad/latin.txt", "UTF-8"]),
    "too-little-text": (train_on("bad/short.txt"), "DataError", ["sequenceLength"]),
    "missing-bucket": (
        {"data": {"train": [{"uri": "s3://no-such-bucket/corpus/"}]}}, "StorageError", ["no-such-bucket", "data.train"],
    ),
    "output-bucket-missing": (
        {"output": {"uri": "s3://no-such-bucket/out"}}, "StorageError", ["no-such-bucket", "output.uri"],
    ),
    "output-taken": ({"output": {"uri": f"s3://{BUCKET}/out/taken"}}, "OutputTaken", ["other/first", "takeOver"]),
    "wrong-credentials": ({"storage": {"secretName": "wrong-keys"}}, "StorageError", ["credentials"]),
    "model-without-safetensors": ({"model": {"uri": f"s3://{BUCKET}/bad/pickle-model/"}}, "DataError", ["safetensors"]),
    "not-a-model-folder": (
        {"model": {"uri": f"s3://{BUCKET}/bad/no-model/"}}, "DataError", ["config.json", "model.uri"],
    ),
    "unknown-architecture": ({"model": scratch(model_type="no-such-model")}, "SpecError", ["no-such-model"]),
    "sequence-longer-than-the-model-takes": (
        {"training": {"steps": 1, "sequenceLength": 512, "batchSequences": 1}}, "SpecError",
        ["sequenceLength", "512", "max_position_embeddings", "256"],
    ),
}  # fmt: skip


def test_each_mistake_ends_in_status_with_its_reason_and_what_to_do_and_no_training_pod(
    cluster: Cluster, corpus: str, broken: None
) -> None:
    cluster.kubectl(
        "create", "secret", "generic", "wrong-keys",
        "--from-literal=AWS_ACCESS_KEY_ID=nobody", "--from-literal=AWS_SECRET_ACCESS_KEY=not-the-secret-key",
    )  # fmt: skip
    for name, (overrides, _, _) in CASES.items():
        runs.apply(cluster, runs.manifest(name, corpus, **overrides))
    wrong = []
    for name, (_, reason, words) in CASES.items():
        wait_until(lambda name=name: runs.status(cluster, name).get("phase") in ("Failed", "Running", "Succeeded"), 240)
        seen = runs.status(cluster, name)
        failure = seen.get("lastFailure", {})
        missing = [word for word in words if word not in failure.get("message", "")]
        if seen["phase"] != "Failed" or failure.get("reason") != reason or missing or "Traceback" in json.dumps(seen):
            wrong.append(f"{name}: wanted {reason} naming {words}, got {seen['phase']} {json.dumps(failure)}")
        if runs.job_names(cluster, name) != [f"{name}-prepare"]:
            wrong.append(f"{name}: a training Job was created")
        assert "not-the-secret-key" not in json.dumps(seen)
    assert not wrong, "\n".join(wrong)


def test_a_missing_secret_is_named_in_status_and_can_be_mended(cluster: Cluster, corpus: str) -> None:
    runs.apply(
        cluster,
        runs.manifest(
            "no-secret",
            corpus,
            storage={"secretName": "not-there-yet"},
            training={"steps": 2, "sequenceLength": 64, "batchSequences": 2},
        ),
    )

    def is_told() -> bool:
        return any(
            "not-there-yet" in condition["message"]
            for condition in runs.status(cluster, "no-secret").get("conditions", [])
        )

    wait_until(is_told, 60)
    secret = cluster.get_json("secret", "runyard-s3")
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "not-there-yet"}, "data": secret["data"]})
    runs.wait_for_phase(cluster, "no-secret", "Succeeded", deadline_s=120)
