"""The arithmetic of an evaluation, on a stream made by hand and an objective whose loss is known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.dataset.dataset import Dataset, DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED, ShardWriter
from runyard_trainer.data.records.text import PackedText
from runyard_trainer.evaluation.evaluate import (
    HeldOutStream,
    Measured,
    bits_per_byte,
    evaluate_model,
    measure_stream,
    open_held_out,
)
from runyard_trainer.objectives.base import Objective, ObjectiveModule, Traits
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.objectives.causal_lm import collate, probe
from runyard_trainer.storage.open import open_store
from torch import Tensor

CPU = torch.device("cpu")
DOCUMENTS = [[1, 2, 3, 4, 0], [5, 0], [6, 7, 8, 9, 10, 11, 0]]
"""14 tokens in windows of 4: |1 2 3 4|0 5 0 6|7 8 9 10|11 0 . .|"""
PREDICTED = [2, 3, 4, 0, 8, 9, 10, 0]
"""All but the first token of each document and window."""
TEXT_BYTES = 30


RECIPE = Recipe.model_validate(
    {
        "model": {"uri": "s3://bucket/model"},
        "data": {"train": [{"uri": "s3://bucket/text/"}]},
        "training": {"steps": 1, "sequenceLength": 8},
        "output": {"uri": "s3://bucket/output"},
    }
)


class KnownLoss(ObjectiveModule):
    """The loss of predicting token n is n nats; remembers the shapes it was given."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), Traits(stochastic=False))
        self.shapes: list[torch.Size] = []

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]  # its inputs
        assert not self.training
        assert input_ids.shape == position_ids.shape == labels.shape
        self.shapes.append(input_ids.shape)
        return labels[labels != IGNORED].sum().float()[None]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    location = open_store(f"file://{tmp_path}/prepared", Storage())
    writer = ShardWriter(location, "validation", "uint16")
    for document in DOCUMENTS:
        writer.add({"input_ids": document})
    stream = writer.finish().model_copy(update={"bytes": TEXT_BYTES})
    info = DatasetInfo(dtype="uint16", vocab_size=12, eos_token_id=0, streams={"validation": stream})
    cache = tmp_path / "cache"
    cache.mkdir()
    return Dataset(location, info, cache)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 7])
def test_each_window_counts_once_and_filler_not_at_all(dataset: Dataset, micro_batch: int) -> None:
    module = KnownLoss().eval()
    samples = PackedText(dataset.stream("validation"), 4, 0, keep_tail=True)
    objective = Objective(auto_class=None, module=lambda *_: module, probe=probe, collate=collate)
    stream = HeldOutStream(objective, samples, dataset.stream("validation").info)
    measured = measure_stream(module, stream, World(), micro_batch, CPU)
    assert measured == Measured(sum(PREDICTED) / len(PREDICTED))
    assert set(module.shapes) == {(micro_batch, 4)}


def test_bits_per_byte_spread_the_loss_of_all_tokens_over_the_bytes_of_the_text() -> None:
    assert bits_per_byte(loss=math.log(2), tokens=300, text_bytes=100) == pytest.approx(3.0)


def test_a_stream_that_was_not_prepared_has_no_loss_and_the_module_keeps_its_mode(dataset: Dataset) -> None:
    module = KnownLoss().train()
    held_out = open_held_out(dataset, build_objective(RECIPE, dataset.info), RECIPE)
    losses = evaluate_model(module, held_out, World(), 2, CPU)
    predicted = [2, 3, 4, 0, 0, 8, 9, 10, 11, 0]  # in windows of 8: |1 2 3 4 0 5 0 6|7 8 9 10 11 0 . .|
    loss = sum(predicted) / len(predicted)
    assert losses == Losses(domain_loss=loss, domain_bits_per_byte=bits_per_byte(loss, 14, TEXT_BYTES))
    assert module.training
