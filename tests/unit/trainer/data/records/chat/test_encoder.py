"""Instructions and conversations as tokens: which of them are trained on, against spans counted by hand.

The tokenizer makes a token of every byte and of every special token, so places in a text are places of tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.records.chat.encoder import ChatEncoder
from runyard_trainer.data.records.chat.layout import TEMPLATE_FILE
from runyard_trainer.data.records.sft import KIND, DialogueEncoder, parse_dialogue
from runyard_trainer.data.sources.rows import Row
from transformers import AutoTokenizer

from tests.unit.trainer.data.records.byte_tokenizer import CHATML, END, IM_END, encode, open_tokenizer

PLAIN: dict[str, tuple[dict[str, Any], str, list[list[int]]]] = {
    "prompt-completion": (
        {"prompt": "one and one", "completion": " is two"},
        "one and one is two<|endoftext|>",  # 11 of the prompt, 7 of the completion and its end
        [[11, 19]],
    ),
    "alpaca with an input": (
        {"instruction": "Add.", "input": "1 1", "output": "2"},
        "<|user|>\nAdd.\n\n1 1\n<|assistant|>\n2<|endoftext|>\n",  # 9 + 9 + 1 + 14, then 1 and its end
        [[33, 35]],
    ),
    "alpaca without": (
        {"instruction": "Add.", "input": "", "output": "2"},
        "<|user|>\nAdd.\n<|assistant|>\n2<|endoftext|>\n",  # 9 + 4 + 1 + 14
        [[28, 30]],
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hi you"},
                {"role": "user", "content": "bye"},
                {"role": "assistant", "content": "bye"},
            ]
        },
        "<|system|>\nBe brief.\n"  # 11 + 9 + 1 = 21
        "<|user|>\nhi\n<|assistant|>\nhi you<|endoftext|>\n"  # 9 + 2 + 1 + 14 = 26, 6 and the end, a line end: 55
        "<|user|>\nbye\n<|assistant|>\nbye<|endoftext|>\n",  # 9 + 3 + 1 + 14 = 27, 3 and the end
        [[47, 54], [82, 86]],
    ),
    "messages of which the first answer has weight 0": (
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "hi you", "weight": 0},
                {"role": "user", "content": "bye"},
                {"role": "assistant", "content": "bye", "weight": 1},
            ]
        },
        "<|user|>\nhi\n<|assistant|>\nhi you<|endoftext|>\n<|user|>\nbye\n<|assistant|>\nbye<|endoftext|>\n",
        [[61, 65]],
    ),
    "conversations": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hä"}]},
        "<|user|>\nhi\n<|assistant|>\nhä<|endoftext|>\n",  # ä is two bytes
        [[26, 30]],
    ),
}


@pytest.mark.parametrize(("row", "text", "spans"), PLAIN.values(), ids=PLAIN.keys())
def test_trained_on_is_what_the_model_is_to_write_and_its_end(
    tmp_path: Path, row: dict[str, Any], text: str, spans: list[list[int]]
) -> None:
    assert encode(open_tokenizer(tmp_path), row) == (text, spans)


def test_a_conversation_is_laid_out_by_the_models_own_template_and_ends_with_its_end_of_turn(tmp_path: Path) -> None:
    text, spans = encode(open_tokenizer(tmp_path, CHATML), PLAIN["messages"][0])
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"  # 1 + 7 + 9 + 1 + 1 = 19
        "<|im_start|>user\nhi<|im_end|>\n"  # 1 + 5 + 2 + 1 + 1 = 10
        "<|im_start|>assistant\nhi you<|im_end|>\n"  # 1 + 10, then 6 and the end, then 1
        "<|im_start|>user\nbye<|im_end|>\n"  # 1 + 5 + 3 + 1 + 1 = 11
        "<|im_start|>assistant\nbye<|im_end|>\n"
    )
    assert spans == [[40, 47], [70, 74]]


def test_what_ends_answers_is_known_once_all_records_are_read(tmp_path: Path) -> None:
    encoder = DialogueEncoder(ChatEncoder(open_tokenizer(tmp_path, CHATML)), 64)
    for name, record_format in (("conversations", "conversations"), ("prompt-completion", "prompt-completion")):
        encoder.encode([parse_dialogue(Row(PLAIN[name][0], "data.jsonl:1", Columns(), record_format))])
    assert encoder.describe() == {"stop_token_ids": [END, IM_END]}


def test_a_prompt_begins_as_the_tokenizer_begins_its_texts(tmp_path: Path) -> None:
    text, spans = encode(open_tokenizer(tmp_path, opens=True), PLAIN["prompt-completion"][0])
    assert text == "<|endoftext|>one and one is two<|endoftext|>"
    assert spans == [[12, 20]]


def test_the_plain_template_begins_so_too(tmp_path: Path) -> None:
    text, spans = encode(open_tokenizer(tmp_path, opens=True), PLAIN["conversations"][0])
    assert text == "<|endoftext|><|user|>\nhi\n<|assistant|>\nhä<|endoftext|>\n"
    assert spans == [[27, 31]]


def test_no_token_reaches_from_the_prompt_into_its_answer(tmp_path: Path) -> None:
    """A model that is asked gets the prompt's own tokens."""
    tokenizer = open_tokenizer(tmp_path, merges=(("e", "Ġ"),))
    assert len(tokenizer.backend.encode("one is").ids) == 5
    text, spans = encode(tokenizer, {"prompt": "one", "completion": " is one one"})
    assert text == "one is one one<|endoftext|>"
    assert spans == [[3, 14]]  # of " is one one" the middle "e " is one token


def test_a_completion_that_ends_itself_is_not_ended_twice(tmp_path: Path) -> None:
    text, spans = encode(open_tokenizer(tmp_path), {"prompt": "one", "completion": " two<|endoftext|>"})
    assert text == "one two<|endoftext|>"
    assert spans == [[3, 8]]


def test_what_is_longer_than_a_sequence_loses_its_end(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tmp_path)
    assert encode(tokenizer, PLAIN["prompt-completion"][0], length=14) == ("one and one is", [[11, 14]])
    assert encode(tokenizer, PLAIN["messages"][0], length=60)[1] == [[47, 54]]
    encoder = DialogueEncoder(ChatEncoder(tokenizer), 14)
    record = parse_dialogue(Row(PLAIN["prompt-completion"][0], "data.jsonl:1", Columns()))
    [[example]] = encoder.encode([record])
    assert example.is_truncated
    assert example.text_bytes == 18


def test_the_plain_template_stays_with_the_tokenizer_once_there_is_a_conversation(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tmp_path)
    encode(tokenizer, PLAIN["prompt-completion"][0])
    assert not (tokenizer.folder / TEMPLATE_FILE).exists()
    text, _ = encode(tokenizer, PLAIN["messages"][0])
    exported: Any = AutoTokenizer.from_pretrained(tokenizer.folder)
    messages = PLAIN["messages"][0]["messages"]
    assert exported.apply_chat_template(messages, tokenize=False) == text
    asked = exported.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    assert text == f"{asked}bye<|endoftext|>\n"


def test_the_models_own_template_stays_as_it_is(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tmp_path, CHATML)
    encode(tokenizer, PLAIN["messages"][0])
    assert (tokenizer.folder / TEMPLATE_FILE).read_text() == CHATML


REFUSED = {
    "one that takes no system": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system please') }}{% endif %}",
        "data.jsonl:1: the model's chat template refuses this conversation: no system please",
    ),
    "one that breaks": (
        "{{ messages[0]['content'] + 7 }}",
        "data.jsonl:1: the model's chat template refuses this conversation: can only concatenate str",
    ),
    "one that ends no turn": (
        CHATML.replace("<|im_end|>", "").replace("<|im_start|>", "@"),
        "data.jsonl:1: the model's chat template ends the assistant's turn with no special token",
    ),
    "one that asks otherwise": (
        CHATML.replace("assistant\\n", "assistant, answer:\\n") + "{% if add_generation_prompt %}now{% endif %}",
        "data.jsonl:1: message 2: the model's chat template lays out what comes before it otherwise",
    ),
}


@pytest.mark.parametrize(("template", "want"), REFUSED.values(), ids=REFUSED.keys())
def test_a_template_that_cannot_be_trained_with_is_refused(tmp_path: Path, template: str, want: str) -> None:
    with pytest.raises(UserError) as caught:
        encode(open_tokenizer(tmp_path, template), PLAIN["messages"][0])
    assert str(caught.value).startswith(want)
    assert caught.value.code is ExitCode.DATA_ERROR


@pytest.mark.parametrize("name", ["prompt-completion", "messages", "messages of which the first answer has weight 0"])
def test_a_held_out_record_is_written_so_that_it_is_read_again(name: str) -> None:
    row = PLAIN[name][0]
    record = parse_dialogue(Row(row, "data.jsonl:1", Columns()))
    again = parse_dialogue(Row(KIND.to_json(record), "data.jsonl:1", Columns()))
    assert again == record
