"""Questions as windows: where they are cut, and which tokens are the answer."""

from __future__ import annotations

from typing import Any

import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.data.records.question_answering import QuestionEncoder, cut_windows, find_answer, parse_question
from runyard_trainer.data.sources.rows import Row
from tokenizers import Tokenizer, models, pre_tokenizers

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
