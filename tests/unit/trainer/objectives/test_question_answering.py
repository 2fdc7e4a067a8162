"""Spans decoded from logits, and answers compared as SQuAD's script does."""

from __future__ import annotations

import numpy as np
import pytest
from runyard_trainer.objectives.question_answering import FoundAnswer, find_best_span, measure_f1, normalize, score


@pytest.mark.parametrize("num_tokens", [1, 5, 30, 31, 80])
def test_the_best_span_is_that_of_all_pairs_up_to_30_tokens(num_tokens: int) -> None:
    chance = np.random.default_rng(num_tokens)
    for _ in range(20):
        starts, ends = chance.normal(size=(2, num_tokens)).astype(np.float32)
        pairs = [(i, j) for i in range(num_tokens) for j in range(i, min(i + 30, num_tokens))]
        best = max(pairs, key=lambda pair: starts[pair[0]] + ends[pair[1]])
        assert find_best_span(starts, ends) == (*best, pytest.approx(starts[best[0]] + ends[best[1]]))


def test_an_end_before_its_start_or_too_far_behind_is_no_span() -> None:
    starts, ends = np.zeros(40, np.float32), np.zeros(40, np.float32)
    starts[5], ends[4], ends[35], ends[34] = 9, 9, 9, 1
    assert find_best_span(starts, ends) == (5, 34, 10.0)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("The Broncos!", "broncos"),
        ("an  apple a\tday", "apple day"),
        ("U.S.-based", "usbased"),
        ("theatre", "theatre"),
        ("the", ""),
        ("Zürich", "zürich"),
    ],
)
def test_answers_are_normalized_as_squad_does(answer: str, want: str) -> None:
    assert normalize(answer) == want


@pytest.mark.parametrize(
    ("found", "right", "want"),
    [
        ("the old dog", "dog", 2 / 3),
        ("dog dog", "dog", 2 / 3),
        ("cat", "dog", 0.0),
        ("the", "a", 1.0),
        ("", "dog", 0.0),
    ],
)
def test_f1_counts_words(found: str, right: str, want: float) -> None:
    assert measure_f1(found, right) == pytest.approx(want)


def test_a_question_is_scored_once_by_its_best_window_and_the_answer_most_like_it() -> None:
    right = ["in Africa", "Africa"]
    facts = [
        FoundAnswer(1, 2.0, "a river", right),
        FoundAnswer(1, 5.0, "Africa.", right),
        FoundAnswer(1, 1.0, "in Africa", right),
        FoundAnswer(2, 0.0, "the Nile river", ["Nile"]),
    ]
    assert score(facts) == {"exactMatch": 0.5, "answerF1": pytest.approx((1 + 2 / 3) / 2)}
