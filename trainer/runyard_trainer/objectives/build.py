"""Build the objective of a run. Only its own module is imported: each rank of each attempt would wait for the rest."""

from __future__ import annotations

from importlib import import_module

from runyard_trainer.contract.objectives import LANGUAGE_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.objectives.base import Objective


def build_objective(recipe: Recipe, info: DatasetInfo, stream: str = "train") -> Objective:
    """How a stream is trained on, or measured: general text by the next token where a model is fine-tuned."""
    is_text = stream == "general" and recipe.objective not in LANGUAGE_OBJECTIVES
    name = "causal-lm" if is_text else recipe.objective
    module = import_module(f"{__package__}.{name.replace('-', '_')}")
    objective: Objective = module.build_objective(recipe, info)
    return objective
