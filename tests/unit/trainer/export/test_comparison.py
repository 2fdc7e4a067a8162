"""The before/after table, and the run in one sentence."""

import math

import pytest
from runyard_trainer.contract.reports import Losses
from runyard_trainer.export.comparison import compare, verdict

BEFORE = Losses(domain_loss=5.5, domain_bits_per_byte=2.6, general_loss=3.25, general_bits_per_byte=1.25)
AFTER = Losses(domain_loss=3.25, domain_bits_per_byte=1.5, general_loss=3.5, general_bits_per_byte=1.375)


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        (
            BEFORE,
            AFTER,
            "The domain loss fell by 2.25 to 3.25 nats per token, "
            "and the general loss rose by 0.25 to 3.50 nats per token.",
        ),
        (None, Losses(domain_loss=2.0), "The domain loss is 2.00 nats per token."),
        (Losses(general_loss=2.001), Losses(general_loss=2.0), "The general loss stayed at 2.00 nats per token."),
        (None, Losses(), "Nothing was held out, so nothing was measured."),
    ],
    ids=["both sets", "not measured before", "no change", "nothing held out"],
)
def test_the_verdict_says_in_words_what_the_table_shows(before: Losses | None, after: Losses, want: str) -> None:
    assert verdict("causal-lm", before, after) == want


def test_the_comparison_has_loss_perplexity_and_bits_for_each_measured_set() -> None:
    rows = compare("causal-lm", BEFORE, AFTER)
    assert [(row.held_out, row.measure, row.word) for row in rows] == [
        ("Domain", "loss, nats per token", "better"),
        ("Domain", "perplexity", "better"),
        ("Domain", "bits per byte", "better"),
        ("General", "loss, nats per token", "worse"),
        ("General", "perplexity", "worse"),
        ("General", "bits per byte", "worse"),
    ]
    assert rows[1].after == pytest.approx(math.exp(3.25))
