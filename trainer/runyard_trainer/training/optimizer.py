"""AdamW, and the learning rate as a pure function of the step: nothing of a schedule is ever saved."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from runyard_trainer.contract.training import Optimizer, Schedule

WSD_DECAY_SHARE = 0.2
"""Share of all steps, at the end, in which `wsd` decays."""


def build_optimizer(module: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters, in two groups: matrices (embeddings too) decay, vectors do not.

    Vectors are norms and biases. The rate is 0 until `set_learning_rate`.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate that the next step uses."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(step: int, total_steps: int, peak: float, schedule: Schedule) -> float:
    """Return the rate of a step (from 0). It is never 0, so that every step learns.

    The warm-up counts from 1: with n steps of warm-up the first has 1/n of the peak, the nth the peak. The rates after
    it are those of transformers' schedules.
    """
    warmup_steps = math.ceil(schedule.warmup * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    shape = _SHAPES[schedule.type](step, warmup_steps, total_steps)
    return peak * (schedule.min_ratio + (1 - schedule.min_ratio) * shape)


def _cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return (1 + cos(pi x progress)) / 2, in the form that loses no digits near the end."""
    return math.sin(math.pi / 2 * _share_left(step, warmup_steps, total_steps)) ** 2


def _linear(step: int, warmup_steps: int, total_steps: int) -> float:
    return _share_left(step, warmup_steps, total_steps)


def _constant(_step: int, _warmup_steps: int, _total_steps: int) -> float:
    return 1.0


def _wsd(step: int, warmup_steps: int, total_steps: int) -> float:
    decay_start = max(warmup_steps, total_steps - math.ceil(WSD_DECAY_SHARE * total_steps))
    return 1.0 if step < decay_start else _share_left(step, decay_start, total_steps)


def _share_left(step: int, start: int, end: int) -> float:
    """Return the share of the steps from `start` to `end` that is not done: above 0 before `end`."""
    return (end - step) / (end - start)


_SHAPES = {"cosine": _cosine, "linear": _linear, "constant": _constant, "wsd": _wsd}
"""Each falls from 1 after the warm-up towards 0, which the step after the last one would have."""


def clip_gradients(module: nn.Module, max_norm: float) -> float:
    """Scale all gradients so that their norm over all ranks is at most `max_norm`; return the norm before."""
    norm = nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    return float(_whole(norm))


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
