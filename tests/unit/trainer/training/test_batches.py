"""Ranks share a step: together they read what one rank would, and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.dataset.dataset import DatasetInfo, open_dataset
from runyard_trainer.data.dataset.token_shards import IGNORED, ShardWriter
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.text import PackedText
from runyard_trainer.objectives.base import Objective
from runyard_trainer.objectives.causal_lm import CausalLM, collate, count_predicted, probe
from runyard_trainer.storage.open import open_store
from runyard_trainer.training.batches import Batches

LENGTH = 8
ORDER = Order(num_train=20, num_replay=5, replay_fraction=0.25, batch=6, seed=3)
OBJECTIVE = Objective(auto_class=None, module=CausalLM, probe=probe, collate=collate)
Streams = Mapping[str, PackedText]


@pytest.fixture
def streams(tmp_path: Path) -> Streams:
    """Twenty sequences to train on and five to replay, every one different."""
    location = open_store(f"file://{tmp_path}/prepared", Storage())
    infos = {}
    for stream, first, count in (("train", 1, 40), ("replay", 100, 10)):
        writer = ShardWriter(location, stream, "uint16")
        for i in range(count):
            writer.add({"input_ids": [first + i, first + i, 7, 0]})
        infos[stream] = writer.finish()
    info = DatasetInfo(dtype="uint16", vocab_size=200, eos_token_id=0, streams=infos)
    (location / "dataset.json").put(info.to_json().encode())
    dataset = open_dataset(location / "dataset.json", tmp_path / "cache")
    return {name: PackedText(dataset.stream(name), LENGTH, 0, keep_tail=False) for name in infos}


def open_batches(streams: Streams, order: Order, world: World, micro_batch: int) -> Batches:
    return Batches(streams, OBJECTIVE, order, world, micro_batch)


def rows(streams: Streams, step: int, size: int, micro_batch: int) -> tuple[list[tuple[int, ...]], int]:
    """All sequences of a step that are trained on, sorted, and how many tokens the ranks say they train on."""
    found, trained = [], 0
    for rank in range(size):
        with open_batches(streams, ORDER, World(rank, size, rank, size), micro_batch) as batches:
            part = batches.step(step)
        trained += part.tokens
        assert part.counts == [part.tokens]
        for inputs in (micro.inputs for micro in part.micro_batches):
            assert list(inputs) == ["input_ids", "position_ids", "labels"]
            assert {tensor.shape for tensor in inputs.values()} == {(micro_batch, LENGTH)}
            assert {tensor.dtype for tensor in inputs.values()} == {torch.int64}
            weighted = (inputs["labels"] != IGNORED).any(dim=1)
            found += [tuple(row) for row in inputs["input_ids"][weighted].tolist()]
    return sorted(found), trained


@pytest.mark.parametrize("micro_batch", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_worlds_of_any_size_train_on_the_same_tokens(streams: Streams, size: int, micro_batch: int) -> None:
    for step in (0, 1, 9):
        want, want_trained = rows(streams, step, 1, 6)
        assert len(want) == 6
        assert want_trained == 6 * 6
        assert rows(streams, step, size, micro_batch) == (want, want_trained)


def test_steps_may_be_read_in_any_order(streams: Streams) -> None:
    with open_batches(streams, ORDER, World(), 6) as batches:
        forwards = {step: batches.step(step).micro_batches[0].inputs["input_ids"] for step in (0, 1, 2, 3)}
        for step in (3, 0, 2, 2):
            assert torch.equal(batches.step(step).micro_batches[0].inputs["input_ids"], forwards[step])


def test_what_goes_wrong_while_reading_ahead_is_raised_by_the_step_it_concerns(streams: Streams) -> None:
    beyond = Order(num_train=21, num_replay=0, replay_fraction=0.0, batch=1, seed=0)
    bad_step = next(step for step in range(21) if beyond.sample(step, 0).index == 20)
    with open_batches(streams, beyond, World(), 1) as batches:
        for step in range(bad_step):
            batches.step(step)
        with pytest.raises(IndexError, match="sequence 20 of 8 tokens is not in a stream of 160"):
            batches.step(bad_step)


def test_only_shifted_labels_that_are_not_ignored_count_as_trained() -> None:
    assert count_predicted(torch.tensor([[5, 5, IGNORED, 5], [IGNORED, IGNORED, IGNORED, IGNORED]])) == 2
