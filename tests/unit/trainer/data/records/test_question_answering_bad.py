"""Questions and answers that are wrong: told by file and line, with the remedy, when the run is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.bad_records import explain, prepare_lines

CONTEXT = "the small dog likes the old dog"


def row(**changes: Any) -> dict[str, Any]:
    good = {"id": "7", "context": CONTEXT, "question": "who likes?", "answers": answers("small dog", 4)}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def answers(text: Any, start: Any) -> dict[str, Any]:
    return {"text": [text], "answer_start": [start]}


CASES: dict[str, tuple[Any, str]] = {
    "no context": (
        row(context=...),
        "no field 'context', found answers, id, question: name the field that holds it in columns.context",
    ),
    "no question": (
        row(question=...),
        "no field 'question', found answers, context, id: name the field that holds it in columns.question",
    ),
    "an empty question": (row(question=" "), "field 'question' is empty: leave out rows without a question"),
    "a number for an id": (row(id=7), "field 'id' is a number, not a string"),
    "no answers": (
        row(answers=...),
        "no field 'answers', found context, id, question: name the field that holds it in columns.answers",
    ),
    "a list of answers": (
        row(answers=[{"text": "dog", "answer_start": 10}]),
        "field 'answers' is a list, not an object with text and answer_start",
    ),
    "no starts": (
        row(answers={"text": ["dog"]}),
        "field 'answers' has no 'answer_start', found text: it needs the lists text and answer_start",
    ),
    "a text that is no list": (
        row(answers={"text": "dog", "answer_start": [10]}),
        "field 'answers.text' is a string, not a list of strings",
    ),
    "a start that is no list": (
        row(answers={"text": ["dog"], "answer_start": 10}),
        "field 'answers.answer_start' is a number, not a list of whole numbers",
    ),
    "a start in words": (
        row(answers=answers("dog", "10")),
        "field 'answers.answer_start[0]' is a string, not a whole number",
    ),
    "a start too few": (
        row(answers={"text": ["dog", "old dog"], "answer_start": [10]}),
        "field 'answers' has 2 of text and 1 of answer_start: give each answer its place",
    ),
    "no answer": (
        row(answers={"text": [], "answer_start": []}),
        "field 'answers' has no answer: leave out questions that the context does not answer",
    ),
    "an empty answer": (
        row(answers=answers("", 3)),
        "field 'answers.text[0]' is '': an answer has at least one character",
    ),
    "a start that is one off": (
        row(answers=answers("small dog", 5)),
        "field 'answers.answer_start[0]' is 5, where the context has 'mall dog ', not 'small dog': that text begins at "
        "4 (characters count from 0, not bytes)",
    ),
    "a start near the second of two": (
        row(answers=answers("dog", 26)),
        "field 'answers.answer_start[0]' is 26, where the context has 'd d', not 'dog': that text begins at 28 "
        "(characters count from 0, not bytes)",
    ),
    "a start behind the context": (
        row(answers=answers("small dog", 99)),
        "field 'answers.answer_start[0]' is 99, outside the context's 31 characters, not 'small dog': that text begins "
        "at 4 (characters count from 0, not bytes)",
    ),
    "a negative start": (
        row(answers=answers("dog", -3)),
        "field 'answers.answer_start[0]' is -3, outside the context's 31 characters, not 'dog': that text begins at 10 "
        "(characters count from 0, not bytes)",
    ),
    "an answer that is nowhere": (
        row(answers=answers("cat", 4)),
        "field 'answers.answer_start[0]' is 4, where the context has 'sma', not 'cat': the context does not have that "
        "text (characters count from 0, not bytes)",
    ),
    "the second answer": (
        row(answers={"text": ["small dog", "dog"], "answer_start": [4, 0]}),
        "field 'answers.answer_start[1]' is 0, where the context has 'the', not 'dog': that text begins at 10 "
        "(characters count from 0, not bytes)",
    ),
    "a question that leaves no room": (
        row(question="who " * 17),
        "the question leaves 12 of training.sequenceLength 32 tokens for the context, less than half: shorten it, or "
        "lengthen training.sequenceLength",
    ),
}


@pytest.mark.parametrize(("bad", "want"), CASES.values(), ids=CASES.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, bad: Any, want: str) -> None:
    assert explain(tmp_path, "question-answering", row(), bad) == f"data.jsonl:2: {want}"


def test_lines_that_are_right_are_prepared(tmp_path: Path) -> None:
    several = {"text": ["dog", "small dog", "old dog"], "answer_start": [10, 4, 24]}
    # not ASCII: places are counted in characters
    accents = row(context="ä ö dog", answers=answers("dog", 4), id=...)
    prepare_lines(tmp_path, "question-answering", row(), row(answers=several, title="ignored"), accents)
    assert (tmp_path / "output" / "resolved.json").exists()
