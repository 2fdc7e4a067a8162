"""Take one optimizer step: forward and backward of this rank's micro-batches, clip, AdamW.

Each term of a step's loss is a sum over all ranks and micro-batches, divided by a count that is known before the first
backward pass, so gradients come out in their final scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from runyard_trainer.context import World
from runyard_trainer.contract.training import Training
from runyard_trainer.data.order import seed_of
from runyard_trainer.models.buffers import buffers_kept
from runyard_trainer.objectives.base import Objective
from runyard_trainer.ranks.distributed import sum_over_ranks
from runyard_trainer.training.batches import StepBatches
from runyard_trainer.training.optimizer import clip_gradients
from runyard_trainer.training.sharded_model import ShardedModule


@dataclass(frozen=True)
class Learner:
    """What a rank trains: module, objective, optimizer, on its device."""

    module: ShardedModule
    objective: Objective
    optimizer: torch.optim.Optimizer
    training: Training
    batch: int
    """Samples in a step, over all ranks."""
    world: World
    device: torch.device


@dataclass(frozen=True)
class StepResult:
    """The result of a step, the same on every rank."""

    loss: float
    """The sum of its terms, each a mean: in nats per token, or per text."""
    tokens: int
    """Tokens that went through the model; of a language objective, tokens that were predicted."""
    grad_norm: float
    """Before clipping."""
    is_stop_requested: bool
    """Whether any rank has got a signal to stop."""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite: only then the weights were changed."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def take_step(learner: Learner, batches: StepBatches, step: int, is_stop_requested: bool) -> StepResult:
    """Train on this rank's part of a step; where loss or gradient is not finite, change nothing.

    Args:
        learner: with the learning rate of this step set in its optimizer.
        batches: this rank's micro-batches, the same number on every rank.
        step: number of the step, from 0.
        is_stop_requested: whether this rank was told to stop; it is summed over the ranks with the loss.
    """
    *counts, num_tokens = sum_over_ranks([*batches.counts, batches.tokens], learner.world)
    divisors = [max(count, 1.0) for count in counts]
    sums = accumulate_gradients(learner, batches, divisors, step)
    grad_norm = clip_gradients(learner.module, learner.training.optimizer.max_grad_norm)
    *sums, num_stops = sum_over_ranks([*sums, is_stop_requested], learner.world)
    loss = sum(term / divisor for term, divisor in zip(sums, divisors, strict=True))
    result = StepResult(loss, int(num_tokens), grad_norm, num_stops > 0)
    if result.is_finite:
        learner.optimizer.step()
    learner.optimizer.zero_grad()
    return result


def accumulate_gradients(learner: Learner, batches: StepBatches, divisors: list[float], step: int) -> list[float]:
    """Run forward and backward of this rank's micro-batches; return each term of the loss, summed over them.

    Ranks add up their gradients in the last micro-batch only. FSDP divides that sum by the number of ranks, which the
    scales undo. Dropout is seeded by the place of a micro-batch's first sample.
    """
    module, device, world = learner.module, learner.device, learner.world
    scales = torch.tensor([world.size / divisor for divisor in divisors], device=device)
    sums = torch.zeros(len(divisors), dtype=torch.float64, device=device)
    last = batches.micro_batches[-1]
    with buffers_kept(module):
        for number, batch in enumerate(batches.micro_batches):
            if module.traits.stochastic:
                torch.manual_seed(seed_of(learner.training.seed, step, number * world.size + world.rank))
            module.set_requires_gradient_sync(batch is last)
            module.set_reshard_after_backward(batch is last or world.size > 1)
            terms = module(**{name: tensor.to(device) for name, tensor in batch.inputs.items()})
            (terms * scales).sum().backward()
            sums += terms.detach()
    return [float(value) for value in sums.cpu()]
