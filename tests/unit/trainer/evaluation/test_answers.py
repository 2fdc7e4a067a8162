"""What a model writes, against what it should write."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.evaluation.answers import (
    MAX_RECORDS,
    HeldOutRecord,
    cut_at_stop,
    pad_left,
    score_answers,
    select_records,
)


def build_examples(*rows: tuple[list[int], list[int]]) -> Examples:
    return cast(Examples, [{"input_ids": np.array(ids), "spans": np.array(spans)} for ids, spans in rows])


def test_a_record_is_asked_for_its_last_answer() -> None:
    examples = build_examples((list(range(10)), [2, 4, 6, 9]))
    assert select_records(examples, 8) == [HeldOutRecord([0, 1, 2, 3, 4, 5], [6, 7, 8])]


def test_a_record_whose_prompt_leaves_no_room_is_not_asked() -> None:
    examples = build_examples((list(range(10)), [7, 9]), (list(range(10)), [6, 9]))
    assert [len(record.prompt_ids) for record in select_records(examples, 6)] == [6]
    assert select_records(build_examples(), 6) == []


def test_of_many_records_some_are_asked_from_first_to_last() -> None:
    examples = build_examples(*(([number, number], [1, 2]) for number in range(10 * MAX_RECORDS)))
    asked = [record.prompt_ids[0] for record in select_records(examples, 8)]
    assert asked == list(range(0, 10 * MAX_RECORDS, 10))


def test_prompts_end_together() -> None:
    ids, mask = pad_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_answer_goes_to_the_first_token_that_ends_it() -> None:
    assert cut_at_stop([5, 6, 1, 7, 2], [1, 2]) == [5, 6]
    assert cut_at_stop([5, 6], [1, 2]) == [5, 6]


def test_scores_are_counted_by_hand() -> None:
    """Of "the old cat", "the cat sat" has 2 of 3 words, none of 2 pairs of words, and 2 words in order."""
    scores: dict[str, Any] = score_answers([("the old cat", "the cat sat"), ("a dog", "a dog")])
    assert scores == {
        "exactMatch": 0.5,
        "rouge1": pytest.approx((2 / 3 + 1) / 2),
        "rouge2": pytest.approx((0 + 1) / 2),
        "rougeL": pytest.approx((2 / 3 + 1) / 2),
    }
