"""Questions as windows: where they are cut, which tokens are the answer, and what is said of lines that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.data.records.question_answering import QuestionEncoder, cut_windows, find_answer, parse_question
from runyard_trainer.data.sources.rows import Row
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.unit.trainer.bad_records import explain, prepare_lines
from tests.unit.trainer.encoders import document_tokenizer

CONTEXT = "zero one two three four five six seven eight nine"


def build_words() -> Tokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *CONTEXT.split(), "which", "?"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def encode(answer: str, length: int) -> list[dict[str, Any]]:
    answers = {"text": [answer], "answer_start": [CONTEXT.index(answer)]}
    row = {"context": CONTEXT, "question": "which?", "answers": answers}
    tokenizer = document_tokenizer(build_words(), "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
    [examples] = QuestionEncoder(tokenizer, length).encode([parse_question(Row(row, "a:1", Columns()))])
    return [example.columns for example in examples]


def test_a_context_that_fits_is_one_window_and_the_answer_is_its_tokens() -> None:
    [window] = encode("three four", 16)
    # [CLS] which ? [SEP] zero one two three four five six seven eight nine [SEP]
    assert window["input_ids"] == [2, 14, 15, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 3]
    assert window["token_type_ids"] == [0] * 4 + [1] * 11
    assert (window["start_position"], window["end_position"]) == (7, 8)
    assert (window["first_token"], window["text"], window["answers"]) == (4, CONTEXT, ["three four"])


def test_a_longer_one_is_several_and_an_answer_that_is_not_wholly_in_one_is_its_first_token() -> None:
    first, second, third = encode("four five six", 11)  # room for 6 tokens of the context, and 3 are shared
    assert [window["text"] for window in (first, second, third)] == [
        "zero one two three four five",
        "three four five six seven eight",
        "six seven eight nine",
    ]
    positions = [(window["start_position"], window["end_position"]) for window in (first, second, third)]
    assert positions == [(0, 0), (5, 7), (0, 0)]
    assert second["input_ids"] == [2, 14, 15, 3, 7, 8, 9, 10, 11, 12, 3]
    assert second["text"][second["starts"][1] : second["stops"][3]] == "four five six"
    assert len({window["question"] for window in (first, second, third)}) == 1


@pytest.mark.parametrize(
    ("num_tokens", "room", "want"),
    [
        (300, 370, [(0, 300)]),
        (370, 370, [(0, 370)]),
        (371, 370, [(0, 370), (242, 371)]),
        (900, 370, [(0, 370), (242, 612), (484, 854), (726, 900)]),
        (100, 50, [(0, 50), (25, 75), (50, 100)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
    ids=["short", "full", "one more", "SQuAD's", "of short sequences", "of one token"],
)
def test_windows_overlap_by_128_tokens_or_half_of_their_room(
    num_tokens: int, room: int, want: list[tuple[int, int]]
) -> None:
    assert [(window.start, window.stop) for window in cut_windows(range(num_tokens), room)] == want


@pytest.mark.parametrize(
    ("answer", "want"),
    [((0, 3), (0, 0)), ((4, 7), (1, 1)), ((0, 11), (0, 2)), ((5, 6), (1, 1)), ((6, 9), (1, 2)), ((8, 15), None)],
    ids=["first", "second", "all", "within a token", "across two", "past the end"],
)
def test_an_answer_is_the_tokens_that_have_any_of_its_characters(
    answer: tuple[int, int], want: tuple[int, int] | None
) -> None:
    assert find_answer([0, 4, 8], [3, 7, 11], *answer) == want


def test_a_character_of_several_tokens_is_all_of_them() -> None:
    assert find_answer([0, 1, 1, 1, 2], [1, 2, 2, 2, 3], 1, 2) == (1, 3)


# --------------------------------------------------------------------------------------------------------- wrong lines


DOGS = "the small dog likes the old dog"


def row(**changes: Any) -> dict[str, Any]:
    good = {"id": "7", "context": DOGS, "question": "who likes?", "answers": answers("small dog", 4)}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def answers(text: Any, start: Any) -> dict[str, Any]:
    return {"text": [text], "answer_start": [start]}


BAD: dict[str, tuple[Any, str]] = {
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


@pytest.mark.parametrize(("bad", "want"), BAD.values(), ids=BAD.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, bad: Any, want: str) -> None:
    assert explain(tmp_path, "question-answering", row(), bad) == f"data.jsonl:2: {want}"


def test_lines_that_are_right_are_prepared(tmp_path: Path) -> None:
    several = {"text": ["dog", "small dog", "old dog"], "answer_start": [10, 4, 24]}
    # not ASCII: places are counted in characters
    accents = row(context="ä ö dog", answers=answers("dog", 4), id=...)
    prepare_lines(tmp_path, "question-answering", row(), row(answers=several, title="ignored"), accents)
    assert (tmp_path / "output" / "resolved.json").exists()
