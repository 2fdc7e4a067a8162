"""What replay is for: the same continued pre-training forgets less of the general text with it than without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from runyard_trainer.contract.services import Storage

from examples.corpora import build_files, upload

MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
TRAINING = {"steps": 120, "sequenceLength": 128, "batchSequences": 16, "learningRate": 0.003, "microBatch": 16}


def train(folder: Path, name: str, **fields: Any) -> dict[str, Any]:
    """Train alone, as a person would without a cluster, and return eval.json."""
    recipe = {
        "training": TRAINING,
        "evaluation": {"general": [{"uri": f"{folder.as_uri()}/corpora/general-held-out/"}]},
        "output": {"uri": f"{folder.as_uri()}/{name}"},
        **fields,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    # a folder of its own: what ranks share of a run must not be what another test shares
    env = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "runyard_trainer", str(path)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation: dict[str, Any] = json.loads((folder / name / "eval.json").read_text())
    return evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    upload(build_files(400_000, 40_000, 400_000), str(folder / "corpora"), Storage())
    return folder


def test_with_replay_the_general_loss_rises_by_less_and_the_domain_is_learned_all_the_same(folder: Path) -> None:
    corpora = f"{folder.as_uri()}/corpora"
    general = {"train": [{"uri": f"{corpora}/general/"}]}
    scratch = {"scratch": {"config": MODEL, "tokenizer": {"train": {"vocabSize": 1024}}}}
    train(folder, "base", model=scratch, data=general)
    code = {"train": [{"uri": f"{corpora}/code/"}], "validation": {"fraction": 0.1}}
    replay = {"fraction": 0.05, "sources": general["train"]}
    base = {"uri": f"{folder.as_uri()}/base/model"}

    without = train(folder, "without-replay", model=base, data=code)
    with_replay = train(folder, "with-replay", model=base, data={**code, "replay": replay})

    def change(evaluation: dict[str, Any], loss: str) -> float:
        return float(evaluation["after"][loss]) - float(evaluation["before"][loss])

    assert without["before"] == with_replay["before"]
    assert change(with_replay, "generalLoss") < change(without, "generalLoss")
    assert change(with_replay, "domainLoss") < -0.5
    assert abs(change(with_replay, "domainLoss") - change(without, "domainLoss")) < 0.1
