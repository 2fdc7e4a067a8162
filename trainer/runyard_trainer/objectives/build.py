"""Build the objective of a run. Only its own module is imported: each rank of each attempt would wait for the rest."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import transformers

from runyard_trainer.contract.objectives import OBJECTIVES, resolve_objective
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.objectives.base import Objective


def build_objective(recipe: Recipe, info: DatasetInfo, stream: str = "train") -> Objective:
    """Return how a stream is trained on or measured: general text by the next token where a model is fine-tuned."""
    name = resolve_objective(recipe.objective, stream)
    objective: Objective = import_module(name_module(name)).build_objective(recipe, info)
    return replace(objective, auto_class=getattr(transformers, OBJECTIVES[name].auto_class))


def name_module(objective: str) -> str:
    """Return the module of an objective: `runyard_trainer.objectives.masked_lm` of `masked-lm`."""
    return f"{__package__}.{objective.replace('-', '_')}"
