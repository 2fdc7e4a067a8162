"""Runs that train a saved model further: rows written, prepared, and read back step by step."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.base import Sample
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.prepare import prepare

from tests.ranks.outputs import open_prepared


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_recipe(folder: Path, objective: str, output: str = "output", **parts: Any) -> Recipe:
    """Build a run on `model/` and `train.jsonl` in the folder; `parts` are merged into the sections of that name."""
    sections: dict[str, Any] = {
        "model": {"uri": f"file://{folder}/model"},
        "data": {"train": [{"uri": f"file://{folder}/train.jsonl"}], "validation": {"fraction": 0.2}},
        "training": {
            "steps": 20,
            "sequenceLength": 64,
            "batchSequences": 8,
            "microBatch": 4,
            "learningRate": 3e-3,
            "schedule": {"warmup": 0.1},
            "seed": 3,
        },
        "checkpoint": {"everySteps": 10},
        "output": {"uri": f"file://{folder}/{output}"},
    }
    merged = {name: section | parts.pop(name, {}) for name, section in sections.items()}
    return Recipe.model_validate({"objective": objective, **merged, **parts})


def prepare_run(recipe: Recipe) -> None:
    """Prepare it as a prepare pod does."""
    prepare(recipe, RunContext.from_environment({}, recipe))


def read_steps(recipe: Recipe) -> tuple[list[list[Sample]], DatasetInfo]:
    """Return the samples of every step of a prepared run, in its order, and dataset.json."""
    dataset = open_prepared(recipe)
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    order = Order(len(samples), 0, 0.0, recipe.sequences_per_step, recipe.training.seed)
    steps = range(recipe.training.steps or 0)
    return [[samples[order.sample(step, i).index] for i in range(order.batch)] for step in steps], dataset.info
