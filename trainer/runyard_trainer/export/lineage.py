"""Where a model comes from: lineage.json, which chains to the lineage of the model that it was trained from."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.times import format_past_time
from runyard_trainer.storage.base import NotFound
from runyard_trainer.storage.open import open_store

PACKAGES = ("runyard", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def build_lineage(
    recipe: Recipe, context: RunContext, dataset: dict[str, str], source: dict[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """Build the content of lineage.json. Storage is left out: it says nothing of the model, and may be secret.

    Args:
        recipe: what was asked.
        context: whose run this is.
        dataset: `uri` and `sha256` of dataset.json.
        source: lineage of `model.uri`, if it has one.
        now: when the model was written.
    """
    return {
        "run": {
            "name": context.run_name,
            "namespace": context.namespace,
            "uid": context.run_uid,
            "attempts": context.attempt,
            "processes": context.world.size,
        },
        "created": format_past_time(now),
        "recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"storage"}),
        "dataset": dataset,
        "source": {"uri": recipe.model.uri, "lineage": source} if recipe.model.uri else None,
        "versions": {"python": platform.python_version(), **_package_versions()},
    }


def read_source_lineage(recipe: Recipe) -> dict[str, Any] | None:
    """Read the lineage.json beside the model folder that this run began from; None where none can be read."""
    if recipe.model.uri is None:
        return None
    beside = open_store(recipe.model.uri, recipe.storage, "model.uri").parent / "lineage.json"
    try:
        lineage = json.loads(beside.get().data)
    except (NotFound, ValueError):
        return None
    return lineage if isinstance(lineage, dict) else None


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return versions
