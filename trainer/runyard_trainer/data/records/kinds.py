"""Which kind of record a stream of a run's dataset consists of."""

from __future__ import annotations

from runyard_trainer.contract.objectives import LANGUAGE_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.order import Part
from runyard_trainer.data.records import (
    classification,
    masked_text,
    preference,
    question_answering,
    sentences,
    sft,
    text,
    token_classification,
)
from runyard_trainer.data.records.base import RecordKind, Samples

COMPARED = ("target", "reference")
"""Text that the domain's is compared with by `data.select`, and that is in no stream of the dataset."""


_KINDS: dict[str, RecordKind] = {
    "causal-lm": text.KIND,
    "masked-lm": masked_text.KIND,
    "masked-lm-nsp": sentences.KIND,
    "sft": sft.KIND,
    "classification": classification.KIND,
    "token-classification": token_classification.KIND,
    "question-answering": question_answering.KIND,
    "preference": preference.KIND,
}


def kind_of(recipe: Recipe, stream: str) -> RecordKind:
    """What a stream of this recipe's dataset consists of: general text, and what the domain's text is compared with,
    is text, whatever a model is trained on.
    """
    is_text = stream == "general" and recipe.objective not in LANGUAGE_OBJECTIVES
    return text.KIND if is_text or stream in COMPARED else _KINDS[recipe.objective]


def parts_of(recipe: Recipe, dataset: Dataset, samples: Samples) -> tuple[Part, ...]:
    """The samples of the stream `train` by source; all are one part, where no source has a weight of its own."""
    weights = [source.weight for source in recipe.data.train]
    if set(weights) == {1}:
        return (Part(len(samples)),)
    sizes = kind_of(recipe, "train").split_samples(samples, dataset.info.streams["train"], recipe)
    return tuple(Part(size, weight) for size, weight in zip(sizes, weights, strict=False))
