"""How many sequences fit, from the peaks of one and of two."""

from __future__ import annotations

import pytest
from runyard_trainer.training.micro_batch import fit_micro_batch


@pytest.mark.parametrize(
    ("peak_of_1", "peak_of_2", "available", "want"),
    [
        (30, 40, 110, 8),  # 20 + 10 a sequence: 9 would fit
        (30, 40, 100, 8),  # 8 fit exactly
        (30, 40, 99, 4),
        (30, 40, 35, 1),
        (30, 40, 10, 1),  # not even one: trying is all that is left
        (30, 30, 40, 8),  # too small to be seen: one byte a sequence, 11 would fit
    ],
)
def test_the_largest_power_of_2_is_chosen_whose_peak_stays_within_what_is_available(
    peak_of_1: int, peak_of_2: int, available: int, want: int
) -> None:
    assert fit_micro_batch(peak_of_1, peak_of_2, available) == want
