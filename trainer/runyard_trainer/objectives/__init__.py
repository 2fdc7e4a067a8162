"""What a model is trained to do: a module an objective. What they learn from is in `records`."""

from __future__ import annotations

from collections.abc import Callable

from runyard_trainer.contract import Recipe
from runyard_trainer.objectives import causal_lm, classification, question_answering, sft, token_classification
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule, Traits
from runyard_trainer.shards import DatasetInfo

__all__ = ["Fact", "MicroBatch", "Objective", "ObjectiveModule", "Traits", "build_objective"]

_BUILDERS: dict[str, Callable[[Recipe, DatasetInfo], Objective]] = {
    "causal-lm": causal_lm.build_objective,
    "sft": sft.build_objective,
    "classification": classification.build_objective,
    "token-classification": token_classification.build_objective,
    "question-answering": question_answering.build_objective,
}


def build_objective(recipe: Recipe, info: DatasetInfo, stream: str = "train") -> Objective:
    """How a stream is trained on, or measured: the general text by predicting the next token, whatever is trained."""
    return (causal_lm.build_objective if stream == "general" else _BUILDERS[recipe.objective])(recipe, info)
