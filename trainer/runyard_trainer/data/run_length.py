"""Compute the samples of a step and the steps of a run, from the recipe and the size of its data.

    samples of an epoch ─(resolve_batch)─> samples in a step, and why ─(count_steps)─> steps of the run

An automatic batch is resolved when the data are prepared, and recorded for every rank of every attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from runyard_trainer.contract.recipe import Recipe

_STEPS_OF_FEW_SAMPLES = 8
"""Steps that an epoch has at least, if it has as many samples: fewer would hardly move the weights of a default run."""


@dataclass(frozen=True)
class Batch:
    """The size of a step, over all ranks."""

    sequences: int
    reason: str | None = None
    """Why the batch has this size, for people; None where the recipe gives it."""


def is_batch_given(recipe: Recipe) -> bool:
    """Return whether the recipe gives the size of a step."""
    return recipe.training.batch_sequences is not None or recipe.training.batch_tokens is not None


def resolve_batch(recipe: Recipe, num_train: int | Fraction) -> Batch:
    """Resolve the size of a step; `num_train` is the number of samples of an epoch.

    An automatic batch is the default of the recipe's mode if an epoch has samples for enough such steps. If not, it is
    so small that an epoch has 8 steps, or one a sample, and no step takes a sample twice.
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
    """Read the size of a step from the values that preparing has resolved.

    A run that an older version prepared has none recorded: it took the default.
    """
    return (
        recipe.sequences_per_step
        if is_batch_given(recipe)
        else int(resolved.get("batchSequences", recipe.sequences_per_step))
    )


def _count_distinct(recipe: Recipe, num_train: int | Fraction) -> tuple[int, str]:
    """Count the samples of an epoch, or of the whole run where that is less; returns them with their name."""
    training = recipe.training
    if training.tokens is not None:
        asked = training.tokens // training.sequence_length
        if asked < num_train:
            return asked, "sequences, as many as training.tokens asks for"
    if training.epochs is not None and training.epochs < 1:
        return int(count_places(training.epochs, num_train)), f"samples, which are {training.epochs:g} epochs"
    return int(num_train), "samples of an epoch"


def count_places(epochs: float, num_train: int | Fraction) -> Fraction:
    """Count the samples of a number of epochs; exact, as the recipe writes that number."""
    return Fraction(repr(epochs)) * num_train


def count_steps(recipe: Recipe, batch: int, num_train: int | Fraction) -> int:
    """Count the optimizer steps of the whole run, at least 1; `num_train` is the number of samples of an epoch.

    Replay adds no steps: replayed samples take places of these.
    """
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return ceil(Fraction(training.tokens, batch * training.sequence_length))
    assert training.epochs is not None, "the contract holds exactly one of epochs, tokens and steps"
    return max(1, ceil(count_places(training.epochs, num_train) / batch))
