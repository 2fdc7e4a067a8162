"""One epoch of every example on this machine's GPUs, in bf16, and a continued run with each kind of adapter.

What they need of a cluster is left out: the trainer runs alone, one rank a GPU. Without CUDA they are skipped, and what
only a GPU can show stays unmeasured.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from corpora import upload
from runyard_trainer.contract.services import Storage

from tests.example_runs import BASE, NAMES, build_files, check_models, read_example

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: unmeasured"),
]
NOT_OF_A_RECIPE = ("compute", "recovery", "suspend", "ttlSecondsAfterFinished", "queue")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put all data, and the model that the other examples start from."""
    folder = tmp_path_factory.mktemp("gpu")
    upload(build_files(is_short=False), str(folder / "corpora"), Storage())
    train(folder, BASE)
    return folder


def train(store: Path, name: str, output: str = "", **changes: Any) -> Path:
    """Train an example for an epoch, on every GPU; return the folder that it leaves."""
    spec = read_example(name, store.as_uri(), is_short=False)["spec"]
    recipe = {field: value for field, value in spec.items() if field not in NOT_OF_A_RECIPE} | changes
    lengths = ("epochs", "steps", "tokens")
    recipe["training"] = {key: value for key, value in spec["training"].items() if key not in lengths} | {"epochs": 1}
    recipe["output"] = {"uri": f"{store.as_uri()}/{output or name}"}
    path = store / f"{output or name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    ranks = max(1, torch.cuda.device_count())
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    env = {**os.environ, "TMPDIR": str(store)}
    done = subprocess.run(
        [*argv, "-m", "runyard_trainer", str(path)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return store / (output or name)


def check_trained(output: Path) -> None:
    """Check a run in bf16: every step is finite, and held-out data is predicted better than before."""
    rows = csv.DictReader((output / "metrics.csv").read_text().splitlines())
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    evaluation = json.loads((output / "eval.json").read_text())
    assert evaluation["after"]["domainLoss"] < evaluation["before"]["domainLoss"]
    assert evaluation["precision"] == "bf16"


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_of_an_example(store: Path, name: str) -> None:
    output = store / BASE if name == BASE else train(store, name)
    check_trained(output)
    check_models({output / "model": read_example(name, store.as_uri(), is_short=False)["spec"]["objective"]})


@pytest.mark.parametrize("method", ["lora", "dora", "qlora"])
def test_an_epoch_with_an_adapter(store: Path, method: str) -> None:
    if method == "qlora" and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (extra qlora): unmeasured")
    output = train(store, "code", f"code-{method}", method={"type": method, "rank": 8})
    check_trained(output)
    check_models({output / "model": "causal-lm"})
