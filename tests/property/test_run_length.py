"""Samples in a step and steps of a run, held to what they promise for any recipe and any number of samples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.run_length import Batch, count_steps, read_batch, resolve_batch

DEFAULTS = {"causal-lm": 524_288, "sft": 32, "classification": 32, "preference": 32}
"""Tokens, or samples, of a step by default."""


def build_recipe(objective: str = "causal-lm", **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "objective": objective,
            "model": {"uri": "s3://bucket/model"},
            "data": {"train": [{"uri": "s3://bucket/text/"}]},
            "training": {"epochs": 1} | training,
            "output": {"uri": "s3://bucket/output"},
        }
    )


def default_of(objective: str, length: int) -> int:
    most = DEFAULTS[objective]
    return max(1, most // length) if objective == "causal-lm" else most


objectives = st.sampled_from(sorted(DEFAULTS))
lengths = st.sampled_from([8, 512, 2048, 100_000, 1_048_576])
sizes = st.integers(1, 200) | st.integers(1, 10**9) | st.fractions(0, 100)


@given(objective=objectives, length=lengths, num_train=sizes, epochs=st.integers(1, 50))
def test_no_step_of_an_automatic_batch_takes_a_sample_twice(
    objective: str, length: int, num_train: int | Fraction, epochs: int
) -> None:
    recipe = build_recipe(objective, epochs=epochs, sequenceLength=length)
    batch = resolve_batch(recipe, num_train).sequences
    assert 1 <= batch <= max(1, Fraction(num_train, 8))
    places = count_steps(recipe, batch, num_train) * batch
    assert places < max(1, epochs * num_train) + batch, "only the last step is filled up"


@given(objective=objectives, length=lengths, num_train=st.integers(1, 10**9), epochs=st.integers(1, 50))
def test_few_samples_make_8_steps_an_epoch_or_one_each_and_many_the_default(
    objective: str, length: int, num_train: int, epochs: int
) -> None:
    recipe = build_recipe(objective, epochs=epochs, sequenceLength=length)
    batch, most = resolve_batch(recipe, num_train), default_of(objective, length)
    assert batch.sequences <= most
    if num_train >= 8 * most or most == 1:
        assert batch == Batch(most, "the default")
    else:
        assert count_steps(recipe, batch.sequences, num_train) >= epochs * min(8, num_train)
        assert batch.reason is not None
        assert str(num_train) in batch.reason
        assert f"the default {most}" in batch.reason


@pytest.mark.parametrize("length", [{"epochs": 0.01}, {"tokens": 20_000}])
@pytest.mark.parametrize("num_train", [1, 700, 10**7])
def test_a_run_that_asks_for_little_takes_no_more_in_a_step_than_that(length: dict[str, float], num_train: int) -> None:
    recipe = build_recipe(sequenceLength=1024, **{"epochs": None} | length)
    batch = resolve_batch(recipe, num_train).sequences
    asked = length.get("tokens", 0) / 1024 or 0.01 * num_train
    assert batch <= max(1, asked)
    assert count_steps(recipe, batch, num_train) >= min(8, asked) or batch == 512


@given(num_train=sizes, given_batch=st.integers(1, 10**6), length=st.sampled_from(["epochs", "steps", "tokens"]))
def test_a_batch_that_was_asked_for_is_taken_whatever_the_data(
    num_train: int | Fraction, given_batch: int, length: str
) -> None:
    recipe = build_recipe(batchSequences=given_batch, **{"epochs": None, length: 3})
    assert resolve_batch(recipe, num_train) == Batch(given_batch)
    assert read_batch(recipe, {}) == given_batch


@given(objective=objectives, num_train=sizes)
def test_an_attempt_takes_the_batch_that_was_recorded(objective: str, num_train: int | Fraction) -> None:
    recipe = build_recipe(objective)
    batch = resolve_batch(recipe, num_train)
    assert read_batch(recipe, {"batchSequences": str(batch.sequences)}) == batch.sequences


@pytest.mark.parametrize(
    ("training", "num_train", "want"),
    [
        ({"epochs": 1, "batchSequences": 8}, 80, 10),
        ({"epochs": 1, "batchSequences": 8}, 81, 11),
        ({"epochs": 0.1, "batchSequences": 10}, 300, 3),
        ({"epochs": 0.001, "batchSequences": 10}, 1, 1),
        ({"tokens": 8192, "sequenceLength": 1024, "batchSequences": 4}, 1, 2),
        ({"tokens": 8193, "sequenceLength": 1024, "batchSequences": 4}, 1, 3),
        ({"steps": 7}, 1, 7),
        ({"epochs": 3, "sequenceLength": 2048}, 8192, 96),
        ({"epochs": 3, "sequenceLength": 2048}, 512, 24),
        ({"epochs": 1, "sequenceLength": 2048}, 1, 1),
    ],
)
def test_the_number_of_steps_follows_from_what_the_recipe_asks(
    training: dict[str, float], num_train: int, want: int
) -> None:
    recipe = build_recipe(**{"epochs": None} | training)
    assert count_steps(recipe, resolve_batch(recipe, num_train).sequences, num_train) == want
