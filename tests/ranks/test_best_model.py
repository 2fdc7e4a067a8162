"""A run that is measured on its way exports its best model, also when it was interrupted meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.recipe import Recipe

from tests.ranks.attempts import disturbed_rank, send_sigterm, train_rank
from tests.ranks.outputs import digest_of_weights, read_losses, read_output
from tests.ranks.pretraining import build_recipe, copy_prepared, prepare_corpus
from tests.ranks.run_ranks import run_ranks

TOO_FAST = {"steps": 48, "learningRate": 0.3, "schedule": {"warmup": 0.0, "type": "constant"}}
"""The loss on held-out text is best early and then rises."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    prepare_corpus(folder)
    return folder


def build(folder: Path, output: str, **training: Any) -> Recipe:
    recipe = build_recipe(folder, output, **TOO_FAST).model_dump(mode="json", by_alias=True, exclude_none=True)
    recipe["training"] |= training
    recipe["evaluation"] = {"before": True, "everySteps": 6}
    recipe["checkpoint"] = {"everySteps": 20, "keepLast": 1}
    built = Recipe.model_validate(recipe)
    copy_prepared(folder, built)
    return built


def test_the_best_model_is_exported_and_an_interruption_changes_neither_choice_nor_bits(folder: Path) -> None:
    whole, stopped = build(folder, "whole"), build(folder, "stopped")
    assert run_ranks(train_rank, 2, whole) == ["finished"] * 2
    evaluated = read_output(whole, "eval.json")
    by_loss = min(evaluated["measured"], key=lambda each: each["domainLoss"])
    assert [each["step"] for each in evaluated["measured"]] == [6, 12, 18, 24, 30, 36, 42, 48]
    assert evaluated["exportedStep"] == by_loss["step"] < 48
    assert evaluated["after"]["domainLoss"] == by_loss["domainLoss"]
    assert by_loss["step"] in [entry["step"] for entry in read_output(whole, "head.json")["previous"]]

    ends = run_ranks(disturbed_rank, 2, stopped, 1, send_sigterm)
    assert all(end.startswith("interrupted: stopped by a signal") for end in ends), ends
    assert run_ranks(train_rank, 2, stopped, 2) == ["finished"] * 2
    assert read_output(stopped, "eval.json")["measured"] == evaluated["measured"]
    assert digest_of_weights(stopped) == digest_of_weights(whole)


def test_a_run_that_gets_no_better_ends_early(folder: Path) -> None:
    recipe = build(folder, "early", earlyStopping={"patience": 1})
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    measured = read_output(recipe, "eval.json")["measured"]
    best = min(measured, key=lambda each: each["domainLoss"])["step"]
    assert [each["step"] for each in measured][-1] == best + 6 < 48
    assert len(read_losses(recipe)) == best + 6
    assert read_output(recipe, "eval.json")["exportedStep"] == best
