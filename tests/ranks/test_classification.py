"""Classification: the loss against transformers' own, metrics, and models that open without our package."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract import Recipe
from runyard_trainer.order import Order
from runyard_trainer.records import kind_of
from runyard_trainer.shards import open_dataset, read_resolved
from runyard_trainer.storage import open_store
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.ranks.fine_tuning import WORDS, build_recipe, prepare_run, read_output, save_model, train_rank, write_rows
from tests.ranks.prepared import read_losses
from tests.ranks.run_ranks import run_ranks
from tests.ranks.transformers_reference import train_reference

BASES = {
    "bert": AutoModelForMaskedLM,
    "roberta": AutoModelForMaskedLM,
    "modernbert": AutoModelForMaskedLM,
    "llama": AutoModelForCausalLM,
}


def build_rows(multi_label: bool = False) -> list[dict[str, Any]]:
    """Texts whose class is whether they say good or bad, or which of both."""
    chance = random.Random(5)
    rows = []
    for _ in range(120):
        said = [word for word in ("good", "bad") if chance.random() < 0.5]
        words = chance.choices(WORDS[:14], k=chance.randint(2, 12)) + (said if multi_label else said[:1] or ["bad"])
        chance.shuffle(words)
        classes = {"labels": said} if multi_label else {"label": "good" if "good" in words else "bad"}
        rows.append({"text": " ".join(words), **classes})
    return rows


def prepare_classification(
    folder: Path, model_type: str = "bert", multi_label: bool = False, **training: Any
) -> Recipe:
    save_model(folder / "model", model_type, BASES[model_type])
    write_rows(folder / "train.jsonl", build_rows(multi_label))
    recipe = build_recipe(folder, "classification", training=training)
    prepare_run(recipe)
    return recipe


@pytest.mark.parametrize("multi_label", [False, True], ids=["one class", "several classes"])
@pytest.mark.parametrize("model_type", BASES)
def test_20_steps_lose_what_transformers_loses_to_1e_5(tmp_path: Path, model_type: str, multi_label: bool) -> None:
    recipe = prepare_classification(tmp_path, model_type, multi_label)
    batches, info = read_batches(recipe)
    want = train_reference(recipe, info, batches)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    losses = read_losses(recipe)
    assert losses == pytest.approx(want, rel=1e-5)
    assert len(set(losses)) == 20


def read_batches(recipe: Recipe) -> tuple[list[dict[str, torch.Tensor]], Any]:
    """Every step's texts as transformers pads them, in the order of the run, and dataset.json."""
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    folder = Path(recipe.output.uri.removeprefix("file://"))
    dataset = open_dataset(open_store(resolved.dataset, recipe.storage), folder / "cache")
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    order = Order(len(samples), 0, 0.0, recipe.sequences_per_step, recipe.training.seed)
    tokenizer = AutoTokenizer.from_pretrained(str(recipe.model.uri).removeprefix("file://"))
    batches = []
    for step in range(recipe.training.steps or 0):
        chosen = [samples[order.sample(step, i).index] for i in range(order.batch)]
        batch = tokenizer.pad({"input_ids": [sample["input_ids"].tolist() for sample in chosen]}, return_tensors="pt")
        labels = torch.stack([torch.from_numpy(sample["labels"]) for sample in chosen])
        batches.append({**batch, "labels": labels.float() if labels.ndim == 2 else labels})
    return batches, dataset.info


def test_the_model_opens_without_our_package_and_has_the_metrics_of_eval_json(tmp_path: Path) -> None:
    recipe = prepare_classification(tmp_path, steps=60)
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    folder = tmp_path / "output" / "model"
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "bad", 1: "good"}
    held_out = read_output(recipe, "eval.json")["sets"]["domain"]["text"]
    rows = [json.loads(line) for line in Path(held_out.removeprefix("file://")).read_text().splitlines()]
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
