"""The learning rate as a function of the step, against transformers' schedules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from runyard_trainer.contract import Optimizer, Schedule
from runyard_trainer.optimizer import build_optimizer, learning_rate
from torch import nn
from transformers import get_scheduler

PEAK = 2e-4


def transformers_rates(name: str, total_steps: int, warmup_steps: int, **settings: float) -> Iterator[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = get_scheduler(name, optimizer, warmup_steps, total_steps, settings or None)
    for _ in range(total_steps):
        yield schedule.get_last_lr()[0]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.13])
@pytest.mark.parametrize("total_steps", [1, 20, 101])
@pytest.mark.parametrize(
    ("schedule", "name", "settings"),
    [
        (Schedule(type="cosine", min_ratio=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (Schedule(type="linear", min_ratio=0.0), "linear", {}),
        (Schedule(type="constant"), "constant_with_warmup", {}),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_the_rate_is_that_of_transformers_at_every_step(
    schedule: Schedule, name: str, settings: dict[str, float], total_steps: int, warmup: float
) -> None:
    schedule = schedule.model_copy(update={"warmup": warmup})
    warmup_steps = -int(-warmup * total_steps // 1)
    rates = [learning_rate(step, total_steps, PEAK, schedule) for step in range(total_steps)]
    assert rates == pytest.approx(list(transformers_rates(name, total_steps, warmup_steps, **settings)))


def test_wsd_is_constant_and_then_decays_over_the_last_fifth() -> None:
    schedule = Schedule(type="wsd", warmup=0.1, min_ratio=0.5)
    rates = [learning_rate(step, 100, PEAK, schedule) / PEAK for step in range(100)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.75)
    assert rates[99] == pytest.approx(0.525)


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    module = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    decayed, rest = build_optimizer(module, Optimizer(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3), (3, 3)]
    assert [parameter.shape for parameter in rest["params"]] == [(3,), (3,), (3,)]
