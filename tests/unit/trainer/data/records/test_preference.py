"""Pairs of answers that are wrong: told by file and line, with the remedy, when the run is prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.tokenizers.tokenizer import train_tokenizer
from runyard_trainer.prepare import prepare
from transformers import AutoConfig

GOOD = {"prompt": "the cat", "chosen": " is good", "rejected": " is bad"}
USER, ASSISTANT, OTHER = ({"role": role, "content": text} for role, text in
                          (("user", "Hi"), ("assistant", "Hello"), ("assistant", "Go away")))  # fmt: skip
OPENAI = {"input": {"messages": [USER]}, "preferred_output": [ASSISTANT], "non_preferred_output": [OTHER]}
CHAT = {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": (
        {"question": "a", "chosen": "b", "rejected": "c"},
        "no field 'prompt', found chosen, question, rejected: name the field that holds it in columns.prompt",
    ),
    "no rejected answer": (
        {"prompt": "a", "chosen": "b"},
        "no field 'rejected', found chosen, prompt: name the field that holds it in columns.rejected",
    ),
    "a number for an answer": (GOOD | {"chosen": 7}, "field 'chosen' is a number, not a string"),
    "two answers alike": (
        GOOD | {"rejected": GOOD["chosen"]},
        "both answers are the same, so neither is the better one: remove the pair",
    ),
    "an empty answer": (GOOD | {"rejected": " "}, "the rejected answer is empty: write one, or remove the pair"),
    "half of a surrogate pair": (
        GOOD | {"chosen": "a\ud83d"},
        "field 'chosen' has half of a surrogate pair at character 1",
    ),
    "a chat and a text": (
        GOOD | {"prompt": [USER]},
        "'prompt' has a list of messages and the rest is text: write all of prompt and answers alike",
    ),
    "a message that is a text": (CHAT | {"prompt": ["Hi"]}, "field 'prompt[0]' is a string, not a message"),
    "a message without content": (
        CHAT | {"chosen": [{"role": "assistant"}]},
        "field 'chosen[0]' has no 'content', found role: a message has content",
    ),
    "a role that nobody has": (
        CHAT | {"prompt": [{"role": "human", "content": "Hi"}]},
        "field 'prompt[0].role' is 'human': write one of system, developer, user, assistant, tool",
    ),
    "content that is a list": (
        CHAT | {"prompt": [{"role": "user", "content": ["Hi"]}]},
        "field 'prompt[0].content' is a list, not a string",
    ),
    "half of a surrogate pair in a message": (
        CHAT | {"chosen": [{"role": "assistant", "content": "\ud83d"}]},
        "field 'chosen[0].content' has half of a surrogate pair at character 0",
    ),
    "an answer by the user": (
        CHAT | {"chosen": [USER]},
        "field 'chosen' has a message that is not the assistant's: leave it in the prompt",
    ),
    "an empty chat": (CHAT | {"prompt": []}, "field 'prompt' is an empty list, not a list of messages"),
    "both formats": (
        OPENAI | {"chosen": "a"},
        "both preferred_output and chosen or rejected are there: keep input, preferred_output and "
        "non_preferred_output, or prompt, chosen and rejected",
    ),
    "half of OpenAI's format": (
        {"input": OPENAI["input"], "preferred_output": [ASSISTANT]},
        "preferred_output is there and non_preferred_output is not: OpenAI's pairs have both",
    ),
    "an input without messages": (
        OPENAI | {"input": "Hi"},
        'field \'input\' has no messages: OpenAI writes {"messages": [...]} there',
    ),
    "an input with tools": (
        OPENAI | {"input": {"messages": [USER], "tools": [{"type": "function"}]}},
        "field 'input' has tools, which are not laid out: remove them, or the pair",
    ),
    "messages that are none": (
        OPENAI | {"input": {"messages": "Hi"}},
        "field 'input.messages' is a string, not a list of messages",
    ),
}  # fmt: skip


def explain(folder: Path, *rows: dict[str, Any]) -> str:
    """What prepare says of these lines."""
    tokenizer = train_tokenizer(["the cat is good", "the cat is bad"], 300, folder / "model")
    config = AutoConfig.for_model("gpt2", vocab_size=tokenizer.vocab_size, n_embd=8, n_layer=1, n_head=1)
    config.save_pretrained(folder / "model")
    (folder / "model/model.safetensors").touch()
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "objective": "preference",
            "model": {"uri": f"file://{folder}/model"},
            "data": {"train": [{"uri": f"file://{folder}/data.jsonl"}], "validation": {"fraction": 0}},
            "training": {"steps": 1, "sequenceLength": 16},
            "output": {"uri": f"file://{folder}/output"},
        }
    )
    with pytest.raises(UserError) as refused:
        prepare(recipe, RunContext.from_environment({}, recipe))
    assert refused.value.code == ExitCode.DATA_ERROR
    return str(refused.value).replace(f"file://{folder}/", "")


@pytest.mark.parametrize(("row", "want"), CASES.values(), ids=CASES.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, row: dict[str, Any], want: str) -> None:
    assert explain(tmp_path, GOOD, row) == f"data.jsonl:2: {want}"


@pytest.mark.parametrize("row", [CHAT, OPENAI], ids=["messages", "OpenAI's"])
def test_a_chat_for_a_tokenizer_without_a_template_is_told_by_its_place(tmp_path: Path, row: dict[str, Any]) -> None:
    assert explain(tmp_path, GOOD, row) == (
        "data.jsonl:2: the model's tokenizer has no chat template to lay messages out with: put a chat_template.jinja "
        "beside it, or give texts instead"
    )


def test_a_template_that_writes_a_prompt_otherwise_once_it_is_answered_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/chat_template.jinja").write_text("{{ messages | length }}{{ messages[0].content }}")
    assert "chat template lays out what comes before it otherwise when it is asked" in explain(tmp_path, CHAT)


def test_pairs_whose_prompts_fill_the_sequence_length_leave_nothing_to_train_on(tmp_path: Path) -> None:
    message = explain(tmp_path, GOOD | {"prompt": "the cat is good " * 20})
    assert message.startswith("data.train has 0 documents with 0 tokens")
