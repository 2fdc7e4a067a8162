"""Records packed into sequences: each once and whole, and none to be seen from another."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.packing import PackedRecords, pack_apart, pack_lengths

END = 9


@given(lengths=st.lists(st.integers(1, 16), max_size=60))
def test_every_record_lies_whole_in_one_sequence(lengths: list[int]) -> None:
    sequences = pack_lengths(np.array(lengths, dtype=np.int64), 16)
    assert sorted(record for sequence in sequences for record in sequence) == list(range(len(lengths)))
    assert all(sum(lengths[record] for record in sequence) <= 16 for sequence in sequences)


@pytest.mark.parametrize(
    ("lengths", "want"),
    [
        ([10, 6, 10, 6], 2),
        ([6, 6, 10, 10], 2),
        ([16, 1, 15, 8, 8], 3),
        ([9, 9, 9], 3),
    ],
)
def test_records_go_where_they_leave_the_least_room(lengths: list[int], want: int) -> None:
    assert len(pack_lengths(np.array(lengths, dtype=np.int64), 16)) == want


def test_no_sequence_has_records_of_two_sources_that_are_packed_apart() -> None:
    lengths = np.array([3, 9, 4, 6, 2, 8], dtype=np.int64)
    packed = pack_apart(lengths, [2, 0, 4], 12)
    assert [sorted(record for sequence in part for record in sequence) for part in packed] == [[0, 1], [], [2, 3, 4, 5]]
    assert packed[2] == [[2 + record for record in sequence] for sequence in pack_lengths(lengths[2:], 12)]


def build_samples() -> PackedRecords:
    rows = [
        {"input_ids": np.array([1, 2, 3, 4, END]), "spans": np.array([1, 2, 3, 5])},
        {"input_ids": np.array([5, 6, END]), "spans": np.array([2, 3])},
        {"input_ids": np.array([7, 8]), "spans": np.array([1, 2])},
    ]
    return PackedRecords(cast(Examples, rows), [[0, 1], [2]], 10, END, [2])


def lists(sample: dict[str, Any]) -> dict[str, list[int]]:
    return {name: value.tolist() for name, value in sample.items()}


def test_positions_restart_at_each_record_and_labels_are_its_trained_tokens() -> None:
    no = IGNORED
    samples = build_samples()
    assert len(samples) == 2
    assert lists(samples[0]) == {
        "input_ids": [1, 2, 3, 4, END, 5, 6, END, END, END],
        "position_ids": [0, 1, 2, 3, 4, 0, 1, 2, 0, 1],
        "labels": [no, 2, no, 4, END, no, no, END, no, no],
    }
    assert lists(samples[1])["labels"] == [no, 8, no, no, no, no, no, no, no, no]


def test_a_filler_has_nothing_to_learn() -> None:
    assert lists(build_samples().filler) == {
        "input_ids": [END] * 10,
        "position_ids": list(range(10)),
        "labels": [IGNORED] * 10,
    }
