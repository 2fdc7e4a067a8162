"""How many samples a step takes and how many steps a run has: from the recipe and what its data hold.

    samples of an epoch ─(resolve_batch)─> samples in a step, and why ─(count_steps)─> steps of the run

An automatic batch is resolved when the data are prepared, and recorded: every rank of every attempt takes that one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from runyard_trainer.contract.recipe import Recipe

_STEPS_OF_FEW_SAMPLES = 8
"""That an epoch has at least, where it has as many samples: with fewer, a default run would hardly move the weights."""


@dataclass(frozen=True)
class Batch:
    """Samples in a step, over all ranks."""

    sequences: int
    reason: str | None = None
    """Why so many, in words; None where the recipe says how many."""


def is_batch_given(recipe: Recipe) -> bool:
    """Whether the recipe says how many samples a step takes."""
    return recipe.training.batch_sequences is not None or recipe.training.batch_tokens is not None


def resolve_batch(recipe: Recipe, num_train: int | Fraction) -> Batch:
    """The samples of a step; `num_train` is the samples of an epoch.

    An automatic batch is the default of the recipe's mode where there are samples for enough steps of it. Where there
    are fewer it is so small that they make some steps and no step takes a sample twice.
    """
    most = recipe.sequences_per_step
    if is_batch_given(recipe):
        return Batch(most)
    samples, words = _count_distinct(recipe, num_train)
    share = max(1, samples // _STEPS_OF_FEW_SAMPLES)
    if share >= most:
        return Batch(most, "the default")
    steps = f"for at least {_STEPS_OF_FEW_SAMPLES} steps " if samples >= _STEPS_OF_FEW_SAMPLES else ""
    return Batch(share, f"fewer than the default {most}, {steps}over {samples} {words}")


def read_batch(recipe: Recipe, resolved: Mapping[str, str]) -> int:
    """The samples of a step, where `resolved` is what preparing has recorded: an older version recorded none, and took
    the default.
    """
    return (
        recipe.sequences_per_step
        if is_batch_given(recipe)
        else int(resolved.get("batchSequences", recipe.sequences_per_step))
    )


def _count_distinct(recipe: Recipe, num_train: int | Fraction) -> tuple[int, str]:
    """Samples of an epoch, or of the whole run where that is less; and what to call them."""
    training = recipe.training
    if training.tokens is not None:
        asked = training.tokens // training.sequence_length
        if asked < num_train:
            return asked, "sequences, as many as training.tokens asks for"
    if training.epochs is not None and training.epochs < 1:
        return int(count_places(training.epochs, num_train)), f"samples, which are {training.epochs:g} epochs"
    return int(num_train), "samples of an epoch"


def count_places(epochs: float, num_train: int | Fraction) -> Fraction:
    """Samples of so many epochs: exact, as the decimal fraction that was written."""
    return Fraction(repr(epochs)) * num_train


def count_steps(recipe: Recipe, batch: int, num_train: int | Fraction) -> int:
    """Optimizer steps of the whole run, at least 1; `num_train` is the samples of an epoch.

    Replay replaces: it takes places of these steps and adds none.
    """
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return ceil(Fraction(training.tokens, batch * training.sequence_length))
    assert training.epochs is not None, "the contract holds exactly one of epochs, tokens and steps"
    return max(1, ceil(count_places(training.epochs, num_train) / batch))
