"""The micro-batches of each step for one rank, as tensors, read ahead by a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from runyard_trainer.context import World
from runyard_trainer.order import Order, Sample
from runyard_trainer.shards import IGNORED, Dataset, PackedSequence, pack

_STEPS_AHEAD = 2


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads: int64 tensors of shape [micro_batch, length], on the CPU."""

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of a step. Every rank has as many micro-batches; some may train on nothing."""

    micro_batches: list[MicroBatch]
    trained_tokens: int
    """Tokens that this rank's part predicts: what the sum of the loss over all ranks is divided by, summed likewise."""


class Batches:
    """The steps of a run, in any order; asked for one after the other, they are ready before they are needed."""

    def __init__(self, dataset: Dataset, order: Order, world: World, micro_batch: int, length: int) -> None:
        """What to read, as `order` says it.

        Args:
            dataset: with the streams `train` and `replay`.
            order: which sequences a step holds.
            world: which rank this is.
            micro_batch: sequences in a micro-batch.
            length: tokens in a sequence.
        """
        self._dataset = dataset
        self._order = order
        self._world = world
        self._micro_batch = micro_batch
        self._length = length
        self._filler = _build_filler(length, dataset.info.eos_token_id)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[StepBatches]] = {}

    def step(self, step: int) -> StepBatches:
        """This rank's micro-batches of a step (from 0). What went wrong while reading ahead is raised here."""
        for soon in range(step, step + 1 + _STEPS_AHEAD):
            if soon not in self._ahead:
                self._ahead[soon] = self._reader.submit(self._read, soon)
        batches = self._ahead.pop(step).result()
        for skipped in [other for other in self._ahead if not step < other <= step + _STEPS_AHEAD]:
            self._ahead.pop(skipped).cancel()
        return batches

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, step: int) -> StepBatches:
        places = self._order.places(step, self._world, self._micro_batch)
        micro_batches = [_collate([self._read_sequence(sample) for sample in samples]) for samples in places]
        return StepBatches(micro_batches, sum(count_trained_tokens(batch.labels) for batch in micro_batches))

    def _read_sequence(self, sample: Sample | None) -> PackedSequence:
        if sample is None:
            return self._filler
        return self._dataset.stream(sample.stream).sequence(sample.index, self._length)


def count_trained_tokens(labels: Tensor) -> int:
    """How many tokens labels of shape [micro_batch, length] have the model predict, shifted as the loss does."""
    return int((labels[:, 1:] != IGNORED).sum())


def _build_filler(length: int, eos_token_id: int) -> PackedSequence:
    """A sequence of padding: it goes through the model and weighs nothing."""
    nothing = np.empty(0, dtype=np.int64)
    return pack(nothing, nothing, length, eos_token_id)


def _collate(sequences: list[PackedSequence]) -> MicroBatch:
    return MicroBatch(
        input_ids=torch.from_numpy(np.stack([sequence.input_ids for sequence in sequences])),
        position_ids=torch.from_numpy(np.stack([sequence.position_ids for sequence in sequences])),
        labels=torch.from_numpy(np.stack([sequence.labels for sequence in sequences])),
    )
