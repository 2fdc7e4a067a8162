"""How many sequences go through the model at once, where the recipe does not say.

On a GPU two small ones are tried and their peaks of memory are drawn on in a straight line: trying until memory runs
out would leave the other ranks waiting for the one where it did. On a CPU memory is not what limits.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from runyard_trainer.data.order import rank_starts
from runyard_trainer.data.records.base import Sample
from runyard_trainer.ranks.distributed import min_over_ranks
from runyard_trainer.training.batches import StepBatches
from runyard_trainer.training.step import Learner, accumulate_gradients

CPU_MICRO_BATCH = 8

MEMORY_SHARE = 0.85
"""Of a GPU's memory that the prediction may reach: the rest is fragments, communication, and its error."""

ADAM_BYTES_PER_WEIGHT_BYTE = 2
"""Two moments, which the first step allocates."""


def choose_micro_batch(learner: Learner, filler: Sample) -> int:
    """Samples in a forward pass of one rank, the same on all; `filler` is a sample of no weight."""
    share = math.ceil(learner.batch / learner.world.size)
    if learner.training.micro_batch is not None:
        return min(learner.training.micro_batch, share)
    if learner.device.type == "cpu":
        return min(CPU_MICRO_BATCH, share)
    if share == 1:
        return 1
    peaks = measure_peak_bytes(learner, filler, 1), measure_peak_bytes(learner, filler, 2)
    fits = fit_micro_batch(*peaks, available_bytes(learner))
    return int(min_over_ranks(min(fits, share), learner.world))


def fit_micro_batch(peak_bytes_of_1: int, peak_bytes_of_2: int, available_bytes: int) -> int:
    """The largest power of 2 whose peak stays within what is available; at least 1."""
    bytes_per_sequence = max(1, peak_bytes_of_2 - peak_bytes_of_1)
    count = 1 + (available_bytes - peak_bytes_of_1) // bytes_per_sequence
    return 1 << max(0, count.bit_length() - 1) if count > 0 else 1


def available_bytes(learner: Learner) -> int:
    """What a pass may take at its peak, weights and gradients included, beside the optimizer's moments."""
    weights = sum(
        shard.to_local().nbytes if hasattr(shard, "to_local") else shard.nbytes
        for shard in learner.module.parameters()
        if shard.requires_grad
    )
    total_bytes = torch.cuda.get_device_properties(learner.device).total_memory
    return int(MEMORY_SHARE * total_bytes) - ADAM_BYTES_PER_WEIGHT_BYTE * weights


def measure_peak_bytes(learner: Learner, filler: Sample, micro_batch: int) -> int:
    """Of two micro-batches, so that the gradients that wait for the last one are there; leaves no gradient behind."""
    num_passes = min(2, len(rank_starts(learner.batch, learner.world, micro_batch)))
    torch.cuda.reset_peak_memory_stats(learner.device)
    full = learner.objective.collate([filler] * micro_batch, [0] * micro_batch, learner.training.sequence_length)
    passes = StepBatches([replace(full) for _ in range(num_passes)])
    accumulate_gradients(learner, passes, [1.0] * learner.objective.num_terms, step=0)
    learner.optimizer.zero_grad()
    return torch.cuda.max_memory_allocated(learner.device)
