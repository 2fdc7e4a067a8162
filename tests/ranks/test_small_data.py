"""A first run: few data and no settings. It learns, and goes through the data as often as it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tests.ranks.attempts import train_rank
from tests.ranks.fine_tuning import prepare_run, write_rows
from tests.ranks.outputs import read_metrics, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import save_model

WORDS = ["cat", "dog", "bird", "house", "tree"]


def build_rows(objective: str, count: int) -> list[dict[str, Any]]:
    said = [f"the {WORDS[i % 5]} sees {'a ' * (i // 5)}{WORDS[i // 5 % 5]}" for i in range(count)]
    rows: dict[str, list[dict[str, Any]]] = {
        "causal-lm": [{"text": text} for text in said],
        "masked-lm": [{"text": text} for text in said],
        "sft": [{"prompt": text, "completion": " but not good"} for text in said],
        "preference": [{"prompt": text, "chosen": " but good", "rejected": " but bad"} for text in said],
        "classification": [{"text": text, "label": ("old", "red")[i % 2]} for i, text in enumerate(said)],
    }
    return rows[objective]


def prepare_small(folder: Path, objective: str, count: int, epochs: int, method: str = "full") -> Recipe:
    """Prepare a run with every default but the length of a sequence, which the tiny model bounds."""
    is_encoder = objective in ("classification", "masked-lm")
    auto_class: Any = AutoModelForMaskedLM if is_encoder else AutoModelForCausalLM
    save_model(folder / "model", "bert" if is_encoder else "llama", auto_class)
    write_rows(folder / "train.jsonl", build_rows(objective, count))
    recipe = Recipe.model_validate(
        {
            "objective": objective,
            "model": {"uri": f"file://{folder}/model"},
            "method": {"type": method},
            "data": {"train": [{"uri": f"file://{folder}/train.jsonl"}], "validation": {"fraction": 0}},
            "training": {"epochs": epochs, "sequenceLength": 64},
            "output": {"uri": f"file://{folder}/output"},
        }
    )
    prepare_run(recipe)
    return recipe


@pytest.mark.parametrize(
    ("objective", "count", "epochs", "method"),
    [
        ("causal-lm", 16, 1, "full"),
        ("causal-lm", 30, 2, "full"),
        ("masked-lm", 3, 1, "full"),
        ("sft", 1, 1, "full"),
        ("sft", 24, 3, "full"),
        ("sft", 40, 1, "lora"),
        ("preference", 12, 1, "full"),
        ("classification", 20, 1, "full"),
    ],
)
def test_few_data_and_no_settings_make_steps_that_change_the_weights(
    tmp_path: Path, objective: str, count: int, epochs: int, method: str
) -> None:
    recipe = prepare_small(tmp_path, objective, count, epochs, method)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "output/model"))
    shared = before.keys() & after.keys()
    assert [name for name in shared if not torch.equal(before[name], after[name])]

    rows = read_metrics(recipe)
    resolved = read_output(recipe, "resolved.json")["resolved"]
    assert len(rows) == int(resolved["totalSteps"])
    assert all(float(row["learning_rate"]) > 0 and float(row["grad_norm"]) > 0 for row in rows)
    assert resolved["batchReason"] in read_output(recipe, "report.html")
    asked = epochs * read_output(recipe, "preview.json")["streams"]["train"]["tokens"]
    assert int(rows[-1]["tokens"]) <= 1.5 * asked, "not each text many times over"
