"""What lies at the output of a prepared or finished run in a folder: its dataset, metrics, measurements and weights."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset, read_resolved
from runyard_trainer.storage.open import open_store


def folder_of(recipe: Recipe) -> Path:
    return Path(recipe.output.uri.removeprefix("file://"))


def open_prepared(recipe: Recipe) -> Dataset:
    """Open the dataset that prepare has left for the run."""
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    manifest = open_store(resolved.dataset, recipe.storage)
    return open_dataset(manifest, folder_of(recipe) / "cache", resolved.sha256, resolved.labels)


def read_output(recipe: Recipe, name: str) -> Any:
    """Read a file of the run: JSON parsed, all else as text."""
    text = (folder_of(recipe) / name).read_text()
    return json.loads(text) if name.endswith(".json") else text


def read_held_out(recipe: Recipe) -> list[dict[str, Any]]:
    """Read the rows of the domain that were kept out of training, as eval.json names their file."""
    path = read_output(recipe, "eval.json")["sets"]["domain"]["text"].removeprefix("file://")
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def read_metrics(recipe: Recipe) -> list[dict[str, str]]:
    """Read the rows of metrics.csv."""
    return list(csv.DictReader(io.StringIO(read_output(recipe, "metrics.csv"))))


def read_losses(recipe: Recipe) -> list[float]:
    """Read the loss of each step."""
    return [float(row["loss"]) for row in read_metrics(recipe)]


def digest_of_weights(recipe: Recipe) -> str:
    return hashlib.sha256((folder_of(recipe) / "model" / "model.safetensors").read_bytes()).hexdigest()
