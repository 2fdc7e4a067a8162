"""The arithmetic of an evaluation, on a stream made by hand and an objective whose loss is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract import Storage
from runyard_trainer.evaluate import Measured, bits_per_byte, evaluate_model, measure
from runyard_trainer.outcome import Losses
from runyard_trainer.shards import IGNORED, Dataset, DatasetInfo, ShardWriter
from runyard_trainer.storage import open_store
from torch import Tensor, nn

CPU = torch.device("cpu")
DOCUMENTS = [[1, 2, 3, 4, 0], [5, 0], [6, 7, 8, 9, 10, 11, 0]]
"""14 tokens in windows of 4: |1 2 3 4|0 5 0 6|7 8 9 10|11 0 . .|"""
PREDICTED = [2, 3, 4, 0, 8, 9, 10, 0]
"""All but the first token of each document and window."""
TEXT_BYTES = 30


class KnownLoss(nn.Module):
    """The loss of predicting token n is n nats; remembers the shapes it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
        assert not self.training
        assert input_ids.shape == position_ids.shape == labels.shape
        self.shapes.append(input_ids.shape)
        return labels[labels != IGNORED].sum().float()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    location = open_store(f"file://{tmp_path}/prepared", Storage())
    writer = ShardWriter(location, "validation", "uint16")
    for number, document in enumerate(DOCUMENTS):
        writer.add(document, TEXT_BYTES if number == 0 else 0)
    info = DatasetInfo(dtype="uint16", vocab_size=12, eos_token_id=0, streams={"validation": writer.finish()})
    cache = tmp_path / "cache"
    cache.mkdir()
    return Dataset(location, info, cache)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 7])
def test_each_window_counts_once_and_filler_not_at_all(dataset: Dataset, micro_batch: int) -> None:
    module = KnownLoss().eval()
    measured = measure(module, dataset.stream("validation"), World(), 4, micro_batch, CPU)
    loss = sum(PREDICTED) / len(PREDICTED)
    assert measured == Measured(loss, bits_per_byte(loss, 14, TEXT_BYTES), len(PREDICTED))
    assert set(module.shapes) == {(micro_batch, 4)}


def test_bits_per_byte_spread_the_loss_of_all_tokens_over_the_bytes_of_the_text() -> None:
    assert bits_per_byte(loss=math.log(2), tokens=300, text_bytes=100) == pytest.approx(3.0)


def test_a_stream_that_was_not_prepared_has_no_loss_and_the_module_keeps_its_mode(dataset: Dataset) -> None:
    module = KnownLoss().train()
    losses = evaluate_model(module, dataset, World(), 4, 2, CPU)
    assert losses.domain_loss == sum(PREDICTED) / len(PREDICTED)
    assert losses == Losses(domain_loss=losses.domain_loss, domain_bits_per_byte=losses.domain_bits_per_byte)
    assert module.training
