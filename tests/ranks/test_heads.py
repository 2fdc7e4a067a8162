"""A model that tells classes apart already, trained to do so again: on the same ones, or on others."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.models.config import check_model
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.training.sharded_model import read_model
from transformers import AutoModelForSequenceClassification

from tests.ranks.attempts import train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import save_model

ROWS = [{"text": f"the {word} dog {number}", "label": word} for number in range(20) for word in ("good", "bad")]


def prepare_classifier(folder: Path, model_type: str, classes: list[str], **training: Any) -> Recipe:
    """Prepare a run on good and bad texts with a classifier for these classes."""
    save_model(folder / "model", model_type, AutoModelForSequenceClassification, id2label=dict(enumerate(classes)))
    write_rows(folder / "train.jsonl", ROWS)
    recipe = build_recipe(folder, "classification", training=training)
    prepare_run(recipe)
    return recipe


def read_heads(recipe: Recipe, last: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the head's last weights as the run begins with them, and those of the model's folder."""
    _, info = read_steps(recipe)
    objective, config = build_objective(recipe, info), check_model(recipe)
    objective.configure(config)
    folder = str(recipe.model.uri).removeprefix("file://")
    known: Any = AutoModelForSequenceClassification.from_pretrained(folder)
    model: Any = read_model(Path(folder), config, objective, recipe)
    for (name, want), got in zip(known.named_parameters(), model.parameters(), strict=True):
        assert last in name or torch.equal(want, got), name
    return (dict(each.named_parameters())[f"{last}.weight"] for each in (model, known))  # type: ignore[return-value]  # two


def test_the_same_classes_in_another_order_keep_that_order_and_the_head(tmp_path: Path) -> None:
    recipe = prepare_classifier(tmp_path, "bert", ["good", "bad"], steps=1, learningRate=1e-9)
    got, known = read_heads(recipe, "classifier")
    assert torch.equal(got, known)
    _, info = read_steps(recipe)
    assert info.labels == ["good", "bad"]
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    model: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output" / "model")
    assert model.config.id2label == {0: "good", 1: "bad"}
    assert torch.allclose(model.classifier.weight, known, atol=1e-6)


@pytest.mark.parametrize("classes", [["kind", "cruel"], ["good", "bad", "neither"]], ids=["as many", "one more"])
@pytest.mark.parametrize(("model_type", "last"), [("bert", "classifier"), ("roberta", "out_proj"), ("gpt2", "score")])
def test_other_classes_get_a_new_head_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, model_type: str, last: str, classes: list[str]
) -> None:
    recipe = prepare_classifier(tmp_path, model_type, classes)
    last = f"classifier.{last}" if model_type == "roberta" else last
    with caplog.at_level(logging.INFO, "runyard_trainer"):
        got, known = read_heads(recipe, last)
    assert got.shape[0] == 2
    assert not torch.isin(got, known).any()
    assert 0.01 < float(got.std()) < 0.04
    assert f"the model's head is for {', '.join(classes)}: for bad, good it is drawn anew" in caplog.messages
