"""Losses of the source model, counted per token of the tokenizer that the run has extended."""

from __future__ import annotations

import pytest
from runyard_trainer.contract.reports import Losses
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.evaluation.source_model import convert_losses


def build_info(new_tokens: list[list[int]]) -> DatasetInfo:
    return DatasetInfo(
        dtype="uint16",
        vocab_size=10 + len(new_tokens),
        eos_token_id=0,
        new_tokens=new_tokens,
        streams={"validation": StreamInfo(trained_tokens=100), "general": StreamInfo(trained_tokens=50)},
        base_streams={"validation": StreamInfo(trained_tokens=150), "general": StreamInfo(trained_tokens=50)},
    )


LOSSES = Losses(
    domain_loss=2.0,
    domain_bits_per_byte=0.9,
    general_loss=3.0,
    metrics={"tokenAccuracy": 0.5, "exactMatch": 0.25},
)


def test_the_nats_of_a_text_are_spread_over_its_tokens_in_the_runs_tokenizer() -> None:
    converted = convert_losses(LOSSES, build_info([[1, 2]]))
    assert converted.domain_loss == pytest.approx(3.0)
    assert converted.general_loss == pytest.approx(3.0)
    assert converted.domain_bits_per_byte == 0.9, "bytes are the same in every tokenizer"
    assert converted.metrics == {"exactMatch": 0.25}, "tokens are not predicted alike where they are others"


def test_what_was_not_measured_stays_so() -> None:
    assert convert_losses(Losses(), build_info([[1, 2]])) == Losses()


def test_without_new_tokens_losses_stay_as_they_are() -> None:
    assert convert_losses(LOSSES, build_info([])) is LOSSES
