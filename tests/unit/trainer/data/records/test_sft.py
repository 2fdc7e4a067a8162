"""Instructions and conversations that are wrong: told by file and line, with the remedy, when the run is prepared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.bad_records import explain, prepare_lines

PAIR = {"prompt": "the old dog", "completion": " likes the cat"}
ALPACA = {"instruction": "find the cat", "input": "the red house", "output": "not there"}


def pair(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (PAIR | changes).items() if value is not ...}


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def system(content: Any = "be good", **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": content, **more}


def user(content: Any = "who likes the dog", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any = "the cat", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def conversation(*utterances: tuple[str, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in utterances]}


EXPECTED = (
    "no record to learn an answer from: expected prompt, completion (prompt-completion); messages (messages); "
    "instruction, output (alpaca); conversations (conversations)"
)

CASES: dict[str, tuple[Any, Any, str]] = {
    "no known field": ({}, {"text": "dog"}, f"{EXPECTED}; found text: name the fields in columns"),
    "parts of two formats": (
        {},
        {"prompt": "dog", "output": "cat"},
        f"{EXPECTED}; found output, prompt: name the fields in columns",
    ),
    "two formats at once": (
        {},
        PAIR | chat(user(), assistant()),
        "it has the fields of 2 formats, prompt-completion (prompt, completion) and messages (messages): say which it "
        "is in format",
    ),
    "no completion": (
        {},
        pair(completion=...),
        "no field 'completion', found prompt: name the field that holds it in columns.completion",
    ),
    "an empty completion": (
        {},
        pair(completion=" \n"),
        "field 'completion' is empty: write something there, or leave the record out",
    ),
    "an empty prompt": (
        {},
        pair(prompt=""),
        "field 'prompt' is empty: write something there, or leave the record out",
    ),
    "a number for a completion": ({}, pair(completion=7), "field 'completion' is a number, not a string"),
    "half of a character": (
        {},
        pair(completion="cat \ud83d"),
        "field 'completion' has half of a surrogate pair at character 4",
    ),
    "an empty instruction": (
        {},
        ALPACA | {"instruction": " "},
        "field 'instruction' is empty: write something there, or leave the record out",
    ),
    "a list for an input": ({}, ALPACA | {"input": ["cat"]}, "field 'input' is a list, not a string"),
    "messages that are no list": (
        {},
        {"messages": "who?"},
        "field 'messages' is a string, not a list of messages",
    ),
    "no messages": ({}, chat(), "field 'messages' is an empty list, not a list of messages"),
    "a message that is text": ({}, chat("who?"), "field 'messages[0]' is a string, not a message"),
    "a message without a role": (
        {},
        chat({"content": "who?"}, assistant()),
        "field 'messages[0]' has no 'role', found content: a message has role and content",
    ),
    "a message without content": (
        {},
        chat(user(), {"role": "assistant", "content": None}),
        "field 'messages[1]' has no 'content', found content, role: a message has content",
    ),
    "content in parts": (
        {},
        chat(user([{"type": "text", "text": "who?"}]), assistant()),
        "field 'messages[0].content' is a list, not a string",
    ),
    "an empty answer": (
        {},
        chat(user(), assistant("")),
        "field 'messages[1].content' is empty: write something there, or leave the record out",
    ),
    "an unknown role": (
        {},
        chat(user(), {"role": "model", "content": "the cat"}),
        "field 'messages[1].role' is 'model': write one of system, user, assistant",
    ),
    "a tool call": (
        {},
        chat(user(), assistant(tool_calls=[{"function": {"name": "find"}}])),
        "field 'messages[1].tool_calls' is not trained on: leave it out, or write it as text",
    ),
    "an answer before the question": (
        {},
        chat(assistant(), user(), assistant()),
        "field 'messages[0]' is the assistant's, and nobody has asked: begin with the user's",
    ),
    "the system in the middle": (
        {},
        chat(user(), system(), assistant()),
        "field 'messages[1]' is the system's, who speaks first or never: move it to the front",
    ),
    "the user twice": (
        {},
        chat(user(), user(), assistant()),
        "field 'messages[1]' is the user's again: user and assistant take turns; join the two",
    ),
    "the assistant twice": (
        {},
        chat(system(), user(), assistant(), assistant()),
        "field 'messages[3]' is the assistant's again: user and assistant take turns; join the two",
    ),
    "a question at the end": (
        {},
        chat(user(), assistant(), user()),
        "field 'messages[2]' is the last, and the user's: end with the assistant's",
    ),
    "the system alone": (
        {},
        chat(system()),
        "field 'messages[0]' is the last, and the system's: end with the assistant's",
    ),
    "a weight of a half": (
        {},
        chat(user(), assistant(weight=0.5)),
        "field 'messages[1].weight' is 0.5: write 1 to train on it, or 0 not to",
    ),
    "a weight in words": (
        {},
        chat(user(), assistant(weight=True)),
        "field 'messages[1].weight' is True: write 1 to train on it, or 0 not to",
    ),
    "a weight on the user": (
        {},
        chat(user(weight=1), assistant()),
        "field 'messages[0].weight' is 1, and what the user says is never trained on: leave it out",
    ),
    "nothing to train on": (
        {},
        chat(user(), assistant(weight=0)),
        "field 'messages' has weight 0 for all that the assistant says: leave the record out",
    ),
    "an unknown speaker": (
        {},
        conversation(("human", "who?"), ("bard", "the cat")),
        "field 'conversations[1].from' is 'bard': write one of system, user, human, assistant, gpt, chatgpt",
    ),
    "gpt before the question": (
        {},
        conversation(("gpt", "the cat"), ("human", "who?")),
        "field 'conversations[0]' is the assistant's, and nobody has asked: begin with the user's",
    ),
    "an utterance that is no text": (
        {},
        conversation(("human", 3), ("gpt", "the cat")),
        "field 'conversations[0].value' is a number, not a string",
    ),
    "another format than the source says": (
        {"format": "alpaca"},
        PAIR,
        "no field 'instruction', found completion, prompt: name the field that holds it in columns.instruction",
    ),
    "fields of other names": (
        {"columns": {"completion": "reply"}, "format": "prompt-completion"},
        PAIR,
        "no field 'reply', found completion, prompt: name the field that holds it in columns.completion",
    ),
    "a prompt that leaves no room": (
        {},
        pair(prompt="dog " * 40),
        "41 tokens come before the answer, and training.sequenceLength is 32: lengthen it, or leave the record out",
    ),
}


@pytest.mark.parametrize(("source", "bad", "want"), CASES.values(), ids=CASES.keys())
def test_a_wrong_record_is_told_by_its_place_and_what_to_do(
    tmp_path: Path, source: dict[str, Any], bad: Any, want: str
) -> None:
    assert explain(tmp_path, "sft", bad, **source) == f"data.jsonl:1: {want}"


def test_records_of_another_format_than_the_first_are_told_by_both_places(tmp_path: Path) -> None:
    assert explain(tmp_path, "sft", PAIR, PAIR, ALPACA) == (
        "data.jsonl:3: this record has the fields of alpaca, and that at data.jsonl:1 those of prompt-completion: "
        "write all of them alike, or in sources that say their format"
    )


def test_sources_that_say_their_formats_may_differ(tmp_path: Path) -> None:
    (tmp_path / "more.jsonl").write_text(json.dumps(ALPACA))
    files = {"data.jsonl": "prompt-completion", "more.jsonl": "alpaca"}
    sources = [{"uri": f"file://{tmp_path}/{name}", "format": format_} for name, format_ in files.items()]
    prepare_lines(tmp_path, "sft", PAIR, length=128, data={"train": sources})
    assert (tmp_path / "output" / "resolved.json").exists()


def test_a_record_that_is_too_long_is_left_out_where_invalid_rows_are(tmp_path: Path) -> None:
    rows = [pair(prompt=f"dog {number}") for number in range(30)]
    prepare_lines(tmp_path, "sft", *rows, pair(prompt="dog " * 40), data={"invalidRows": "Drop"})
    [manifest] = (tmp_path / ".runyard").rglob("dataset.json")
    assert json.loads(manifest.read_text())["streams"]["train"]["dropped"] == 1


def test_of_records_that_are_too_long_ten_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [pair(prompt=f"{'dog ' * 40} {number}") for number in range(12)]
    told = explain(tmp_path, "sft", PAIR, *rows).splitlines()
    assert [line.split(": ")[0] for line in told[:-1]] == [f"data.jsonl:{number}" for number in range(2, 12)]
    assert told[-1] == "... and 2 more like these (12 in all)"


@pytest.mark.parametrize(
    ("rows", "source"),
    [
        ([PAIR, PAIR | {"completion": " sees the dog", "id": 7}], {}),
        ([ALPACA, ALPACA | {"input": ""}, {"instruction": "find", "output": "found"}], {}),
        ([chat(user(), assistant()), chat(system(""), user(), assistant(weight=0), user(), assistant(weight=1))], {}),
        ([conversation(("system", "be good"), ("human", "who?"), ("gpt", "the cat"))], {}),
        ([PAIR | chat(user(), assistant())], {"format": "messages"}),
        ([{"question": "who?", "answer": "the cat"}], {"columns": {"prompt": "question", "completion": "answer"}}),
    ],
    ids=["prompt-completion", "alpaca", "messages", "conversations", "two formats, told apart", "other names"],
)
def test_records_that_are_right_are_prepared(tmp_path: Path, rows: list[Any], source: dict[str, Any]) -> None:
    prepare_lines(tmp_path, "sft", *rows, length=128, **source)
    resolved = json.loads((tmp_path / "output" / "resolved.json").read_text())["resolved"]
    assert resolved["learningRate"] == "2e-05"
