"""Measure a model on held-out text: the domain's (stream `validation`) and the general kind (stream `general`).

Each stream is cut into windows of the training's sequence length, packed as for training, and every window is read
once. The windows are dealt to the ranks; each rank sums losses and counts in float64, and the sums are added over the
ranks. All ranks take the same number of forward passes, because a sharded model gathers its weights in each: where the
windows do not divide, places past the end repeat a window without weight.

    loss           = sum of -ln p(token) over all predicted tokens / their number            nats per token
    bits per byte  = loss x tokens of the stream / (ln 2 x UTF-8 bytes of its text)

A document's first token is predicted from nothing, and so is the first of a window: they have no loss, and bits per
byte counts them at the mean. The end-of-document token is one of the tokens. The set and its order never change within
a run, so the same weights in the same world give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from runyard_trainer.context import World
from runyard_trainer.distributed import sum_over_ranks
from runyard_trainer.order import rank_starts
from runyard_trainer.outcome import Losses
from runyard_trainer.shards import IGNORED, Dataset, Stream


@dataclass(frozen=True)
class Measured:
    """The mean loss over a stream."""

    loss: float
    """Nats per predicted token."""
    bits_per_byte: float
    num_predicted: int
    """How many predictions the mean is over."""


def evaluate_model(
    module: nn.Module, dataset: Dataset, world: World, length: int, micro_batch: int, device: torch.device
) -> Losses:
    """Measure `module` on both held-out streams; all ranks call this together and get the same answer.

    Args:
        module: the objective: (input_ids, position_ids, labels), int64 [micro_batch, length], to the loss sum in nats.
        dataset: the prepared data; a stream without documents leaves its losses unset.
        world: which rank this is.
        length: tokens in a window.
        micro_batch: windows in a forward pass of one rank.
        device: where the module computes.
    """
    was_training = module.training
    module.eval()
    try:
        domain = measure(module, dataset.stream("validation"), world, length, micro_batch, device)
        general = measure(module, dataset.stream("general"), world, length, micro_batch, device)
    finally:
        module.train(was_training)
    return Losses(
        domain_loss=domain and domain.loss,
        domain_bits_per_byte=domain and domain.bits_per_byte,
        general_loss=general and general.loss,
        general_bits_per_byte=general and general.bits_per_byte,
    )


@torch.no_grad()
def measure(
    module: nn.Module, stream: Stream, world: World, length: int, micro_batch: int, device: torch.device
) -> Measured | None:
    """The mean loss over all windows of one stream; None where it holds nothing to predict."""
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    for input_ids, position_ids, labels in _batches(stream, world, length, micro_batch):
        labels = labels.to(device)
        loss_sum = module(input_ids.to(device), position_ids.to(device), labels)
        sums += torch.stack([loss_sum.double(), (labels != IGNORED).sum().double()])
    loss_sum_nats, num_predicted = sum_over_ranks(sums.tolist(), world)
    if not num_predicted:
        return None
    loss = loss_sum_nats / num_predicted
    return Measured(loss, bits_per_byte(loss, stream.info.tokens, stream.info.bytes), int(num_predicted))


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Nats per token, spread over the bytes of the text, in bits."""
    return loss * tokens / (math.log(2) * text_bytes)


def _batches(stream: Stream, world: World, length: int, micro_batch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    num_windows = stream.num_sequences(length, keep_tail=True)
    for start in rank_starts(num_windows, world, micro_batch):
        places = range(start, start + micro_batch)
        windows = [stream.sequence(min(place, num_windows - 1), length) for place in places]
        labels = torch.from_numpy(np.stack([window.labels for window in windows]))
        labels[[place >= num_windows for place in places]] = IGNORED
        yield (
            torch.from_numpy(np.stack([window.input_ids for window in windows])),
            torch.from_numpy(np.stack([window.position_ids for window in windows])),
            labels,
        )
