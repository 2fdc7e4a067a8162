"""Question answering: the loss against transformers' own, EM and F1, and models that open without our package."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tests.ranks.attempts import train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.outputs import read_held_out, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import BASES, WORDS, save_model
from tests.ranks.transformers_reference import pad_inputs, train_reference


def build_rows(count: int, num_words: Callable[[random.Random], int]) -> list[dict[str, Any]]:
    """Build contexts in which the answer is what stands between `but` and `then`; some are longer than a window."""
    chance = random.Random(5)
    rows = []
    for number in range(count):
        words = chance.choices(WORDS[:13], k=num_words(chance))
        answer = " ".join(chance.choices(WORDS[:13], k=2))
        place = chance.randrange(len(words))
        before, after = " ".join([*words[:place], "but"]), " ".join(["then", *words[place:]])
        answers = {"text": [answer], "answer_start": [len(before) + 1]}
        row = {"context": f"{before} {answer} {after}", "question": "not very good", "answers": answers}
        rows.append({"id": str(number), **row})
    return rows


def prepare_questions(
    folder: Path, model_type: str = "bert", rows: list[dict[str, Any]] | None = None, **training: Any
) -> Recipe:
    save_model(folder / "model", model_type, BASES[model_type])
    write_rows(folder / "train.jsonl", rows or build_rows(100, lambda chance: chance.randint(4, 90)))
    recipe = build_recipe(folder, "question-answering", training=training)
    prepare_run(recipe)
    return recipe


def pad_step(samples: list[dict[str, Any]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Make a batch of windows as transformers has it."""
    positions = {
        name: torch.tensor([int(sample[name]) for sample in samples]) for name in ("start_positions", "end_positions")
    }
    return pad_inputs(samples, tokenizer) | positions


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_20_steps_lose_what_transformers_loses_to_1e_5(tmp_path: Path, model_type: str) -> None:
    """With windows of one length: padded, transformers lets the padding take part in its softmax."""
    recipe = prepare_questions(tmp_path, model_type, build_rows(100, lambda _: 46))
    steps, info = read_steps(recipe)
    assert {len(sample["input_ids"]) for samples in steps for sample in samples} == {56}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    train_and_compare(recipe, train_reference(recipe, info, [pad_step(samples, tokenizer) for samples in steps]))


@pytest.mark.parametrize("model_type", BASES)
def test_windows_of_any_length_lose_what_transformers_loses_of_each_alone(tmp_path: Path, model_type: str) -> None:
    recipe = prepare_questions(tmp_path, model_type)
    steps, info = read_steps(recipe)
    lengths = {len(sample["input_ids"]) for samples in steps for sample in samples}
    assert len(lengths) > 5
    assert max(lengths) == 64
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    batches = [[pad_step([sample], tokenizer) for sample in samples] for samples in steps]
    train_and_compare(recipe, train_reference(recipe, info, batches, lose_alone))


def lose_alone(model: Any, windows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    return torch.stack([model(**window).loss for window in windows]).mean()


def test_the_model_opens_without_our_package_and_finds_what_eval_json_says(tmp_path: Path) -> None:
    recipe = prepare_questions(tmp_path, steps=60)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    folder = tmp_path / "output" / "model"
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = read_held_out(recipe)
    assert {row["id"] for row in rows} < {str(number) for number in range(100)}
    pairs = [(answer_question(model, tokenizer, row), row["answers"]["text"][0]) for row in rows]
    metrics = read_output(recipe, "eval.json")["after"]["metrics"]
    assert metrics == {
        "exactMatch": pytest.approx(mean(squad_words(found) == squad_words(right) for found, right in pairs)),
        "answerF1": pytest.approx(mean(squad_f1(found, right) for found, right in pairs)),
    }
    assert 0 < metrics["answerF1"] < 1
    assert "AutoModelForQuestionAnswering.from_pretrained" in (folder / "README.md").read_text()


# What follows is SQuAD's evaluation and transformers' question answering example, in the plainest words.


def answer_question(model: Any, tokenizer: Any, row: dict[str, Any]) -> str:
    encoded = tokenizer(
        row["question"], row["context"], truncation="only_second", max_length=64, stride=29,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    best_score, best_text = float("-inf"), ""
    for number in range(len(encoded["input_ids"])):
        inputs = {
            name: torch.tensor(encoded[name][number])[None]
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        with torch.no_grad():
            output = model(**inputs)
        context = [place for place, part in enumerate(encoded.sequence_ids(number)) if part == 1]
        offsets = encoded["offset_mapping"][number]
        for start in context:
            for end in context:
                score = float(output.start_logits[0, start] + output.end_logits[0, end])
                if start <= end < start + 30 and score > best_score:
                    best_score, best_text = score, row["context"][offsets[start][0] : offsets[end][1]]
    return best_text


def squad_words(text: str) -> list[str]:
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def squad_f1(found: str, right: str) -> float:
    words, right_words = squad_words(found), squad_words(right)
    num_same = sum((Counter(words) & Counter(right_words)).values())
    if not words or not right_words:
        return float(words == right_words)
    if num_same == 0:
        return 0.0
    precision, recall = num_same / len(words), num_same / len(right_words)
    return 2 * precision * recall / (precision + recall)
