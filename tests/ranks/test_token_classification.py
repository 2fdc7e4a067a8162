"""Token classification: the loss against transformers' own, seqeval's metrics, models that open without our package."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.ranks.attempts import train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.outputs import read_held_out, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import BASES, save_model
from tests.ranks.transformers_reference import train_reference

PHRASES = {
    "small red bird": ["B-ANIMAL", "I-ANIMAL", "I-ANIMAL"],
    "catdog": ["B-ANIMAL"],  # of several pieces
    "old treehouse": ["B-PLACE", "I-PLACE"],
    "the": ["O"],
    "likes": ["O"],
    "thenbut": ["O"],
}


def build_rows(count: int = 120) -> list[dict[str, Any]]:
    """Build sentences of these phrases."""
    chance = random.Random(5)
    rows = []
    for _ in range(count):
        phrases = chance.choices(list(PHRASES), k=chance.randint(1, 9))
        tokens = [word for phrase in phrases for word in phrase.split()]
        rows.append({"tokens": tokens, "tags": [tag for phrase in phrases for tag in PHRASES[phrase]]})
    return rows


def prepare_tags(folder: Path, model_type: str = "bert", **training: Any) -> Recipe:
    save_model(folder / "model", model_type, BASES[model_type])
    write_rows(folder / "train.jsonl", build_rows())
    recipe = build_recipe(folder, "token-classification", training=training)
    prepare_run(recipe)
    return recipe


@pytest.mark.parametrize("model_type", BASES)
def test_20_steps_lose_what_transformers_loses_to_1e_5(tmp_path: Path, model_type: str) -> None:
    recipe = prepare_tags(tmp_path, model_type)
    steps, info = read_steps(recipe)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    train_and_compare(recipe, train_reference(recipe, info, [pad_step(samples, tokenizer) for samples in steps]))


def pad_step(samples: list[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Make a batch as transformers has it: labels are padded with -100."""
    batch = tokenizer.pad({"input_ids": [sample["input_ids"].tolist() for sample in samples]}, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], -100)
    for row, sample in zip(labels, samples, strict=True):
        row[: len(sample["labels"])] = torch.from_numpy(sample["labels"])
    return {**batch, "labels": labels}


def test_the_model_opens_without_our_package_and_seqeval_finds_what_eval_json_says(tmp_path: Path) -> None:
    recipe = prepare_tags(tmp_path, steps=60)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    folder = tmp_path / "output" / "model"
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert list(model.config.id2label.values()) == ["O", "B-ANIMAL", "I-ANIMAL", "B-PLACE", "I-PLACE"]
    rows = read_held_out(recipe)
    wanted, found = [row["tags"] for row in rows], [tag_words(model, tokenizer, row["tokens"]) for row in rows]
    assert "counted by seqeval" in read_output(recipe, "eval.json")["definition"]
    metrics = read_output(recipe, "eval.json")["after"]["metrics"]
    assert metrics == {
        "entityF1": pytest.approx(f1_score(wanted, found)),
        "entityPrecision": pytest.approx(precision_score(wanted, found)),
        "entityRecall": pytest.approx(recall_score(wanted, found)),
    }
    assert metrics["entityF1"] > 0.5
    assert "AutoModelForTokenClassification.from_pretrained" in (folder / "README.md").read_text()
    tagger = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    text = "the small red bird likes old treehouse"
    entities = [(entity["entity_group"], text[entity["start"] : entity["end"]]) for entity in tagger(text)]
    assert entities == [("ANIMAL", "small red bird"), ("PLACE", "old treehouse")]


def tag_words(model: Any, tokenizer: Any, words: list[str]) -> list[str]:
    """Tag words as transformers' documentation has it: they are split already, and get the tag of their first piece."""
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        best = model(**encoded).logits[0].argmax(dim=-1).tolist()
    word_ids = encoded.word_ids()
    return [model.config.id2label[best[word_ids.index(number)]] for number in range(len(words))]
