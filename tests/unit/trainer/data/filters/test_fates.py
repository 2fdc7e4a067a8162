"""Fates are stored whole, and `data.select` changes those of the records that are trained on alone."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import LEFT_OUT_TEXT, STREAMS, Fate, Fates, LeftOutReason, describe_left_out


def store(*fates: Fate) -> Fates:
    stored = Fates()
    for fate in fates:
        stored.append(fate)
    return stored


def test_every_fate_is_read_back() -> None:
    fates = [Fate(stream, reason) for stream, reason in product(STREAMS, (None, *get_args(LeftOutReason)))]
    assert list(store(*fates)) == fates
    assert len(store(*fates)) == len(fates)


def test_a_selection_changes_what_is_trained_on_and_nothing_else() -> None:
    held_out, empty, replayed = Fate("validation"), Fate("train", "empty"), Fate("replay")
    fates = store(Fate("train"), held_out, Fate("train"), empty, Fate("train"), replayed)
    fates.select(["noise", None, "notSelected"])
    assert list(fates) == [
        Fate("train", "noise"), held_out, Fate("train"), empty, Fate("train", "notSelected"), replayed
    ]  # fmt: skip


def test_a_selection_of_another_number_of_records_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        store(Fate("train"), Fate("train")).select([None])


def test_what_is_left_out_is_described_by_reason() -> None:
    assert set(LEFT_OUT_TEXT) == set(get_args(LeftOutReason))
    info = StreamInfo(left_out={"duplicate": 1200, "empty": 0, "invalid": 2}, dropped=3, truncated=4)
    assert describe_left_out(info) == ["1,200 duplicate", "2 invalid", "3 with nothing to train on", "4 truncated"]
