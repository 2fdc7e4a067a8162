"""One optimizer step: forward and backward of this rank's micro-batches, clip, AdamW.

The loss of a step is the sum over all trained tokens of all ranks and micro-batches, divided by their number; that is
known before the first backward pass, so gradients come out in their final scale.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch

from runyard_trainer.batches import StepBatches
from runyard_trainer.context import World
from runyard_trainer.contract import Training
from runyard_trainer.distributed import sum_over_ranks
from runyard_trainer.model import ShardedCausalLM
from runyard_trainer.optimizer import clip_gradients


@dataclass(frozen=True)
class Learner:
    """What a rank trains, and where."""

    module: ShardedCausalLM
    optimizer: torch.optim.Optimizer
    training: Training
    world: World
    device: torch.device


@dataclass(frozen=True)
class StepResult:
    """What a step was like, the same on every rank."""

    loss: float
    """Nats per token."""
    tokens: int
    """Predicted."""
    grad_norm: float
    """Before clipping."""
    is_stop_requested: bool
    """By a signal to any rank."""

    @property
    def is_finite(self) -> bool:
        """Whether its gradient was used."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def take_step(learner: Learner, batches: StepBatches, step: int, is_stop_requested: bool) -> StepResult:
    """Train on this rank's part of a step; where loss or gradient is not finite, change nothing.

    Args:
        learner: with the learning rate of this step set.
        batches: as many micro-batches as on every other rank.
        step: from 0.
        is_stop_requested: on this rank; it reaches all by the sum of the loss.
    """
    (num_tokens,) = sum_over_ranks([batches.trained_tokens], learner.world)
    loss_sum = accumulate_gradients(learner, batches, max(num_tokens, 1), step)
    grad_norm = clip_gradients(learner.module, learner.training.optimizer.max_grad_norm)
    loss_sum, num_stops = sum_over_ranks([loss_sum, is_stop_requested], learner.world)
    result = StepResult(loss_sum / max(num_tokens, 1), int(num_tokens), grad_norm, num_stops > 0)
    if result.is_finite:
        learner.optimizer.step()
    learner.optimizer.zero_grad()
    return result


def accumulate_gradients(learner: Learner, batches: StepBatches, num_tokens: float, step: int) -> float:
    """Forward and backward of this rank's micro-batches; returns the sum of their losses in nats.

    Ranks add up their gradients in the last one only. FSDP divides that sum by the number of ranks: undone here.
    """
    module, training, device = learner.module, learner.training, learner.device
    scale = learner.world.size / num_tokens
    loss_sum = torch.zeros((), dtype=torch.float64, device=device)
    last = batches.micro_batches[-1]
    for number, batch in enumerate(batches.micro_batches):
        if module.traits.stochastic:  # then a micro-batch is one sequence
            torch.manual_seed(seed_of(training.seed, step, number * learner.world.size + learner.world.rank))
        module.set_requires_gradient_sync(batch is last)
        module.set_reshard_after_backward(batch is last or learner.world.size > 1)
        loss = module(batch.input_ids.to(device), batch.position_ids.to(device), batch.labels.to(device))
        (loss * scale).backward()
        loss_sum += loss.detach()
    return float(loss_sum)


def seed_of(seed: int, step: int, place: int) -> int:
    """Of the dropout of one sequence: its place in the step says which, not the rank that computes it."""
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
