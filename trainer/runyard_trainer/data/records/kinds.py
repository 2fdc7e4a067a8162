"""Which kind of record a stream of a run's dataset consists of."""

from __future__ import annotations

from importlib import import_module

from runyard_trainer.contract.objectives import OBJECTIVES, PLAIN_TEXT, ObjectiveName, resolve_objective
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.order import Part
from runyard_trainer.data.records.base import RecordKind, Samples

COMPARED = ("target", "reference")
"""Names of text that `data.select` compares the domain's with; it is in no stream of the dataset."""


def kind_of(recipe: Recipe, stream: str) -> RecordKind:
    """Return the kind of record in a stream: text in general text, and in what the domain's text is compared with."""
    return kind_of_objective(PLAIN_TEXT if stream in COMPARED else resolve_objective(recipe.objective, stream))


def kind_of_objective(objective: ObjectiveName) -> RecordKind:
    """Return the kind of record that an objective learns from: `KIND` of the module that its traits name."""
    kind: RecordKind = import_module(f"{__package__}.{OBJECTIVES[objective].records}").KIND
    return kind


def parts_of(recipe: Recipe, dataset: Dataset, samples: Samples) -> tuple[Part, ...]:
    """Return the samples of the stream `train` by source; all are one part where no source has a weight of its own."""
    weights = [source.weight for source in recipe.data.train]
    if set(weights) == {1}:
        return (Part(len(samples)),)
    sizes = kind_of(recipe, "train").split_samples(samples, dataset.info.streams["train"], recipe)
    return tuple(Part(size, weight) for size, weight in zip(sizes, weights, strict=False))
