"""What a model is trained to do: a module an objective. What they learn from is in `records`."""

from __future__ import annotations

from collections.abc import Callable

from runyard_trainer.contract import LANGUAGE_OBJECTIVES, Recipe
from runyard_trainer.objectives import (
    causal_lm,
    classification,
    masked_lm,
    masked_lm_nsp,
    preference,
    question_answering,
    sft,
    token_classification,
)
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule, Traits
from runyard_trainer.shards import DatasetInfo

__all__ = ["Fact", "MicroBatch", "Objective", "ObjectiveModule", "Traits", "build_objective"]

_BUILDERS: dict[str, Callable[[Recipe, DatasetInfo], Objective]] = {
    "causal-lm": causal_lm.build_objective,
    "masked-lm": masked_lm.build_objective,
    "masked-lm-nsp": masked_lm_nsp.build_objective,
    "sft": sft.build_objective,
    "classification": classification.build_objective,
    "token-classification": token_classification.build_objective,
    "question-answering": question_answering.build_objective,
    "preference": preference.build_objective,
}


def build_objective(recipe: Recipe, info: DatasetInfo, stream: str = "train") -> Objective:
    """How a stream is trained on, or measured: general text by the next token where a model is fine-tuned."""
    is_text = stream == "general" and recipe.objective not in LANGUAGE_OBJECTIVES
    return (causal_lm.build_objective if is_text else _BUILDERS[recipe.objective])(recipe, info)
