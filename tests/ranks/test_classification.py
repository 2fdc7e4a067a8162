"""Classification: the loss against transformers' own, metrics, and models that open without our package."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.ranks.attempts import train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.outputs import read_held_out, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import BASES, WORDS, save_model
from tests.ranks.transformers_reference import pad_classes, train_reference


def build_rows(multi_label: bool = False) -> list[dict[str, Any]]:
    """Build texts whose class is whether they say good or bad, or pairs of texts whose classes are which of both."""
    chance = random.Random(5)
    rows = []
    for _ in range(120):
        said = [word for word in ("good", "bad") if chance.random() < 0.5]
        words = chance.choices(WORDS[:14], k=chance.randint(2, 12)) + (said if multi_label else said[:1] or ["bad"])
        chance.shuffle(words)
        classes = {"labels": said} if multi_label else {"label": "good" if "good" in words else "bad"}
        middle = len(words) // 2 if multi_label else len(words)
        pair = {"text_pair": " ".join(words[middle:])} if multi_label else {}
        rows.append({"text": " ".join(words[:middle]), **pair, **classes})
    return rows


def prepare_classification(
    folder: Path, model_type: str = "bert", multi_label: bool = False, **training: Any
) -> Recipe:
    save_model(folder / "model", model_type, BASES[model_type])
    write_rows(folder / "train.jsonl", build_rows(multi_label))
    recipe = build_recipe(folder, "classification", training=training)
    prepare_run(recipe)
    return recipe


@pytest.mark.parametrize("multi_label", [False, True], ids=["one class", "several classes of pairs"])
@pytest.mark.parametrize("model_type", BASES)
def test_20_steps_lose_what_transformers_loses_to_1e_5(tmp_path: Path, model_type: str, multi_label: bool) -> None:
    recipe = prepare_classification(tmp_path, model_type, multi_label)
    steps, info = read_steps(recipe)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    train_and_compare(recipe, train_reference(recipe, info, [pad_classes(samples, tokenizer) for samples in steps]))


def test_the_model_opens_without_our_package_and_has_the_metrics_of_eval_json(tmp_path: Path) -> None:
    recipe = prepare_classification(tmp_path, steps=60)
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    folder = tmp_path / "output" / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "bad", 1: "good"}
    rows = read_held_out(recipe)
    with torch.no_grad():
        logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0] for row in rows]
    found = [model.config.id2label[int(each.argmax())] for each in logits]
    wanted = [row["label"] for row in rows]
    metrics = read_output(recipe, "eval.json")["after"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(accuracy_score(wanted, found))
    assert metrics["macroF1"] == pytest.approx(f1_score(wanted, found, average="macro"))
    assert metrics["matthewsCorrelation"] == pytest.approx(matthews_corrcoef(wanted, found))
    assert metrics["accuracy"] > metrics["majorityAccuracy"]
    card = (folder / "README.md").read_text()
    assert "AutoModelForSequenceClassification.from_pretrained" in card
    assert "macro F1" in card
