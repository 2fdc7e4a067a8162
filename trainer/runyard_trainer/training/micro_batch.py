"""Choose how many sequences go through the model at once, where the recipe does not say.

On a GPU micro-batches of 1 and 2 are tried, and the line through their peaks of memory predicts the peak of larger
ones: trying until memory runs out would leave the other ranks waiting for the one where it did. On a CPU memory is not
what limits.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from runyard_trainer.data.order import rank_starts
from runyard_trainer.data.records.base import Sample
from runyard_trainer.ranks.distributed import min_over_ranks
from runyard_trainer.training.batches import StepBatches
from runyard_trainer.training.state import TrainState
from runyard_trainer.training.step import Learner, accumulate_gradients

CPU_MICRO_BATCH = 8

MEMORY_SHARE = 0.85
"""Share of a GPU's memory that a prediction may reach: the rest is fragments, communication and its error."""

ADAM_BYTES_PER_WEIGHT_BYTE = 2
"""AdamW's two moments, which the first step allocates."""


def resolve_micro_batch(state: TrainState, learner: Learner, filler: Sample) -> None:
    """Choose the micro-batch where it was not chosen for a world of this size; `filler` is a sample of no weight."""
    if state.world_size != learner.world.size:
        state.micro_batch = choose_micro_batch(learner, filler)
        state.world_size = learner.world.size


def choose_micro_batch(learner: Learner, filler: Sample) -> int:
    """Return the samples in a forward pass of one rank, the same on all ranks."""
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
    """Return the largest power of 2 whose peak stays within what is available; at least 1."""
    bytes_per_sequence = max(1, peak_bytes_of_2 - peak_bytes_of_1)
    count = 1 + (available_bytes - peak_bytes_of_1) // bytes_per_sequence
    return 1 << max(0, count.bit_length() - 1) if count > 0 else 1


def available_bytes(learner: Learner) -> int:
    """Return what a pass may take at its peak, weights and gradients included, beside the optimizer's moments."""
    weights = sum(
        shard.to_local().nbytes if hasattr(shard, "to_local") else shard.nbytes
        for shard in learner.module.parameters()
        if shard.requires_grad
    )
    total_bytes = torch.cuda.get_device_properties(learner.device).total_memory
    return int(MEMORY_SHARE * total_bytes) - ADAM_BYTES_PER_WEIGHT_BYTE * weights


def measure_peak_bytes(learner: Learner, filler: Sample, micro_batch: int) -> int:
    """Return the peak of memory in two micro-batches: gradients wait for the last one. Leave no gradient behind."""
    num_passes = min(2, len(rank_starts(learner.batch, learner.world, micro_batch)))
    torch.cuda.reset_peak_memory_stats(learner.device)
    full = learner.objective.collate([filler] * micro_batch, [0] * micro_batch, learner.training.sequence_length)
    passes = StepBatches([replace(full) for _ in range(num_passes)])
    accumulate_gradients(learner, passes, [1.0] * learner.objective.num_terms, step=0)
    learner.optimizer.zero_grad()
    return torch.cuda.max_memory_allocated(learner.device)
