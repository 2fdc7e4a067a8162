"""Pairs of answers as tokens, and the numbers that are made of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.chat.encoder import ChatEncoder
from runyard_trainer.data.records.preference import AnswerPairEncoder, parse_answer_pair
from runyard_trainer.data.sources.rows import Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, train_tokenizer
from runyard_trainer.objectives.preference import collate, disable_dropout, score, split_pair
from runyard_trainer.preparation.resolve import resolve_method
from torch import nn

PAIR = {"prompt": "the cat is", "chosen": " good", "rejected": " very bad"}
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(tmp_path: Path) -> DocumentTokenizer:
    return train_tokenizer(["the cat is good", "the cat is very bad"] * 4, 300, tmp_path)


def encode(tokenizer: DocumentTokenizer, fields: dict[str, Any], length: int = 64) -> list[dict[str, Any]]:
    pair = parse_answer_pair(Row(fields, "here", Columns()))
    return [example.columns for example in AnswerPairEncoder(ChatEncoder(tokenizer), length).encode([pair])[0]]


def decode(tokenizer: DocumentTokenizer, columns: dict[str, Any]) -> list[tuple[str, str]]:
    """Prompt and answer of both, as text."""
    sample = {name: np.array(values) for name, values in columns.items()}
    texts = []
    for answer in split_pair(sample):
        ids, is_answer = answer["input_ids"], answer["labels"] != -100
        assert (answer["labels"][is_answer] == ids[is_answer]).all()
        halves = (
            tokenizer.backend.decode(part.tolist(), skip_special_tokens=False)
            for part in (ids[~is_answer], ids[is_answer])
        )
        texts.append(tuple(halves))
    return texts  # type: ignore[return-value]  # pairs


def test_the_answer_and_its_end_are_what_is_trained_on(tokenizer: DocumentTokenizer) -> None:
    (columns,) = encode(tokenizer, PAIR)
    assert decode(tokenizer, columns) == [
        ("the cat is", " good<|endoftext|>"),
        ("the cat is", " very bad<|endoftext|>"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "{user}", "chosen": "{good}", "rejected": "{bad}"},
        {"input": {"messages": "{user}"}, "preferred_output": "{good}", "non_preferred_output": "{bad}"},
    ],
    ids=["messages", "OpenAI's"],
)
def test_of_a_chat_the_assistants_turn_is_trained_on_as_the_template_ends_it(tmp_path: Path, fields: Any) -> None:
    tokenizer = train_tokenizer(["the cat is good", "the cat is very bad"] * 4, 300, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    chats = {
        "{user}": [{"role": "user", "content": "the cat is"}],
        "{good}": [{"role": "assistant", "content": "good"}],
        "{bad}": [{"role": "assistant", "content": "bad"}],
    }

    def fill(value: Any) -> Any:
        return {name: fill(inner) for name, inner in value.items()} if isinstance(value, dict) else chats[value]

    (columns,) = encode(tokenizer, fill(fields))
    prompt = "<user>the cat is</><assistant>"
    assert decode(tokenizer, columns) == [(prompt, "good</>"), (prompt, "bad</>")]


def test_an_answer_of_several_messages_is_trained_on_from_its_first_to_its_last(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["the cat is good", "the cat is very bad"] * 4, 300, tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    good, bad = ({"role": "assistant", "content": text} for text in ("good", "bad"))
    asked = {"prompt": [{"role": "user", "content": "the cat is"}], "chosen": [good, good], "rejected": [bad]}
    (columns,) = encode(tokenizer, asked)
    prompt = "<user>the cat is</><assistant>"
    assert decode(tokenizer, columns) == [(prompt, "good</><assistant>good</>"), (prompt, "bad</>")]


def test_a_prompt_has_the_tokens_that_the_model_is_asked_with(tmp_path: Path) -> None:
    """In one text, `the ca` and `t` would share a token."""
    tokenizer = train_tokenizer(["the cat is good", "the cat is very bad"] * 4, 300, tmp_path)
    (columns,) = encode(tokenizer, {"prompt": "the ca", "chosen": "t is good", "rejected": "r is bad"})
    assert decode(tokenizer, columns) == [
        ("the ca", "t is good<|endoftext|>"),
        ("the ca", "r is bad<|endoftext|>"),
    ]
    assert columns["input_ids"][: columns["spans"][1]] == tokenizer.backend.encode("the ca").ids


def test_an_answer_is_cut_at_the_sequence_length_and_a_pair_without_answers_left_out(
    tokenizer: DocumentTokenizer,
) -> None:
    prompt_length = len(tokenizer.backend.encode("the cat is").ids)
    (columns,) = encode(tokenizer, PAIR, prompt_length + 1)
    assert [len(answer["input_ids"]) for answer in split_pair({k: np.array(v) for k, v in columns.items()})] == [
        prompt_length + 1
    ] * 2
    assert encode(tokenizer, PAIR, prompt_length) == []


@pytest.mark.parametrize("num_shared", [1, 3])
def test_a_pair_whose_answers_are_the_same_as_far_as_they_fit_is_left_out(
    tokenizer: DocumentTokenizer, num_shared: int
) -> None:
    shared = " is good" * num_shared
    pair = {"prompt": "the cat", "chosen": shared + " and red", "rejected": shared + " and bad"}
    fits = len(tokenizer.backend.encode("the cat" + shared + " and").ids)
    assert encode(tokenizer, pair, fits) == []
    (columns,) = encode(tokenizer, pair, fits + 3)
    chosen_length = columns["spans"][0]
    assert columns["input_ids"][:chosen_length] != columns["input_ids"][chosen_length:]


def test_a_filler_is_no_pair_and_answers_stand_beside_each_other(tokenizer: DocumentTokenizer) -> None:
    (columns,) = encode(tokenizer, PAIR)
    sample = {name: np.array(values) for name, values in columns.items()}
    filler = {"input_ids": np.zeros(2, dtype=np.int64), "spans": np.ones(3, dtype=np.int64)}
    batch = collate(5, [sample, filler], [0, 0], 0)
    assert batch.counts == (1,)
    assert batch.inputs["input_ids"].shape == (2, 2, 8)
    assert (batch.inputs["labels"][1] == -100).all()
    assert batch.inputs["input_ids"][1].tolist() == [[0] + [5] * 7] * 2


def test_scores_are_means_over_pairs_and_of_kl_over_tokens() -> None:
    assert score([[0.5, 2.0, 4.0], [-0.1, 1.0, 8.0]]) == {
        "pairAccuracy": 0.5,
        "margin": pytest.approx(0.2),
        "kl": pytest.approx(3 / 12),
    }


def test_without_dropout_nothing_is_left_out_in_training() -> None:
    attention = nn.Module()
    attention.attention_dropout = 0.3  # type: ignore[assignment]  # as attention in transformers has it
    model = nn.Sequential(nn.Dropout(0.5), attention)
    disable_dropout(model)
    assert torch.equal(model[0](torch.ones(64)), torch.ones(64))
    assert attention.attention_dropout == 0.0


RATES = {
    "preference": ({"objective": "preference"}, 1e-6),
    "preference with an adapter": ({"objective": "preference", "method": {"type": "lora"}}, 1e-5),
    "an adapter": ({"method": {"type": "lora"}}, 2e-4),
    "an adapter for classes": ({"objective": "classification", "method": {"type": "dora"}}, 2e-4),
    "what is asked for": ({"method": {"type": "lora"}, "training": {"steps": 1, "learningRate": 3e-4}}, 3e-4),
}


@pytest.mark.parametrize(("fields", "want"), RATES.values(), ids=RATES.keys())
def test_the_default_rate_is_that_of_the_objective_and_the_method(fields: dict[str, Any], want: float) -> None:
    recipe = make_recipe(**fields)
    assert math.isclose(recipe.learning_rate, want)


def make_recipe(**fields: Any) -> Recipe:
    base = {"model": {"uri": "s3://m/m"}, "data": {"train": [{"uri": "s3://c/c"}]}, "output": {"uri": "s3://o/o"}}
    return Recipe.model_validate(base | fields)


def test_what_was_automatic_is_told() -> None:
    recipe = make_recipe(objective="preference", method={"type": "lora", "rank": 8})
    assert resolve_method(recipe) == {"rank": "8", "alpha": "16", "dropout": "0", "beta": "0.1"}
    assert resolve_method(make_recipe(method={"type": "dora"})) == {"rank": "16", "alpha": "32", "dropout": "0.05"}
    assert resolve_method(make_recipe()) == {}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a rank without an adapter": ({"method": {"rank": 4}}, "method.rank belongs to an adapter"),
    "an adapter of nothing": (
        {"method": {"type": "lora"}, "model": {"scratch": {"config": {}, "tokenizer": {"uri": "s3://t/t"}}}},
        "model.scratch has none",
    ),
    "dropout": ({"objective": "preference", "method": {"type": "lora", "dropout": 0.1}}, "without dropout"),
    "a beta of nothing": ({"preference": {"beta": 0.1}}, "preference.beta belongs to objective preference"),
}


@pytest.mark.parametrize(("fields", "want"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_go_together_is_refused_with_the_field(fields: dict[str, Any], want: str) -> None:
    with pytest.raises(ValueError, match=want):
        make_recipe(**fields)
