"""Every manifest of examples/ ends Succeeded, and its model opens with the class that its users know, without us.

`make test` trains each for a few steps; `make test-full` as it is written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import corpora
import pytest
import yaml

from tests.cluster import runs
from tests.cluster.conftest import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE = "general"
"""Of whose model the others start."""
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
MAX_LINES = 300
"""Of a file of records, where runs are short."""
CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "masked-lm-nsp": "AutoModelForPreTraining",
    "sft": "AutoModelForCausalLM",
    "classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "preference": "AutoModelForCausalLM",
}

OPEN = """
import sys
import torch
import transformers
folder, class_name = sys.argv[1:]
model, report = getattr(transformers, class_name).from_pretrained(folder, output_loading_info=True)
assert not any(report.values()), report
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model(**tokenizer("Return the number of items.", return_tensors="pt"))[0]
assert logits.isfinite().all()
assert "runyard_trainer" not in sys.modules
"""


@pytest.fixture(scope="module", params=["short", pytest.param("whole", marks=pytest.mark.full)])
def length(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def applied(cluster: Cluster, length: str) -> Iterator[str]:
    """All examples, the one that the others start from finished; gives the prefix of everything in the bucket."""
    prefix = f"examples-{length}"
    for name, data in build_files(is_short=length == "short").items():
        cluster.s3().put_object(Bucket=runs.BUCKET, Key=f"{prefix}/corpora/{name}", Body=data)
    quota = {"hard": {"requests.nvidia.com/gpu": "4"}}
    cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "examples"}, "spec": quota})
    deadline_s = 180 if length == "short" else 1200
    runs.apply(cluster, read_example(BASE, prefix, length))
    runs.wait_for_phase(cluster, BASE, "Succeeded", deadline_s=deadline_s)
    for name in NAMES:
        runs.apply(cluster, read_example(name, prefix, length))
    yield prefix
    cluster.kubectl("delete", "resourcequota/examples", *(f"trainingrun/{name}" for name in NAMES))


def build_files(*, is_short: bool) -> dict[str, bytes]:
    """The text and the records of all examples, by name."""
    sizes = (200_000, 20_000, 100_000) if is_short else (1_500_000, 60_000, 1_500_000)
    files = corpora.build_files(*sizes)
    for path in EXAMPLES.glob("*_records.py"):
        for name, data in import_module(path.stem).build_files().items():
            files[name] = b"".join(data.splitlines(keepends=True)[: MAX_LINES if is_short else None])
    return files


def read_example(name: str, prefix: str, length: str) -> dict[str, Any]:
    """A manifest, reading and writing below the prefix."""
    text = (EXAMPLES / f"{name}.yaml").read_text().replace(f"s3://{runs.BUCKET}/demo/", f"s3://{runs.BUCKET}/{prefix}/")
    run: dict[str, Any] = yaml.safe_load(text)
    if length == "short":
        training = run["spec"]["training"]
        training.pop("epochs", None)
        training |= {"steps": 4, "batchSequences": 4}
        run["spec"] |= {"checkpoint": {"everySteps": 2}, "compute": {"nodes": 2, "gpusPerNode": 1}}
    return run


@pytest.mark.parametrize("name", NAMES)
def test_an_example_succeeds_and_its_model_opens_without_us(
    cluster: Cluster, applied: str, length: str, name: str, tmp_path: Path
) -> None:
    finished = runs.wait_for_phase(cluster, name, "Succeeded", deadline_s=240 if length == "short" else 1800)
    key = f"{applied}/{name}/model/"
    assert finished["result"]["uri"] == f"s3://{runs.BUCKET}/{key.rstrip('/')}"
    assert finished["result"]["after"]["domainLoss"] > 0
    for found in cluster.s3().list_objects_v2(Bucket=runs.BUCKET, Prefix=key)["Contents"]:
        cluster.s3().download_file(runs.BUCKET, found["Key"], str(tmp_path / found["Key"].removeprefix(key)))
    objective = read_example(name, applied, length)["spec"]["objective"]
    argv = [sys.executable, "-I", "-c", OPEN, str(tmp_path), CLASSES[objective]]
    opened = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert opened.returncode == 0, opened.stderr
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"][0].endswith(CLASSES[objective].removeprefix("AutoModel"))
