"""The learning rate as a function of the step, against transformers' schedules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runyard_trainer.contract.training import Optimizer, Schedule
from runyard_trainer.training.optimizer import build_optimizer, learning_rate
from torch import nn
from transformers import get_scheduler

PEAK = 2e-4


def transformers_rates(name: str, total_steps: int, warmup_steps: int, **settings: float) -> list[float]:
    """Of as many steps, and of one more."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = get_scheduler(name, optimizer, warmup_steps, total_steps, settings or None)
    rates = []
    for _ in range(total_steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.13])
@pytest.mark.parametrize("total_steps", [2, 20, 101])
@pytest.mark.parametrize(
    ("schedule", "name", "settings"),
    [
        (Schedule(type="cosine", min_ratio=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (Schedule(type="linear", min_ratio=0.0), "linear", {}),
        (Schedule(type="constant"), "constant_with_warmup", {}),
    ],
    ids=lambda value: getattr(value, "type", ""),
)
def test_the_rate_is_that_of_transformers_at_every_step_with_a_warm_up_that_counts_from_1(
    schedule: Schedule, name: str, settings: dict[str, float], total_steps: int, warmup: float
) -> None:
    schedule = schedule.model_copy(update={"warmup": warmup})
    warmup_steps = -int(-warmup * total_steps // 1)
    rates = [learning_rate(step, total_steps, PEAK, schedule) for step in range(total_steps)]
    theirs = transformers_rates(name, total_steps, warmup_steps, **settings)
    assert rates == pytest.approx(theirs[1 : warmup_steps + 1] + theirs[warmup_steps:total_steps])


schedules = st.builds(
    Schedule,
    type=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    warmup=st.floats(0, 1),
    min_ratio=st.sampled_from([0.0, 1e-9, 0.1, 1.0]) | st.floats(0, 1),
)
runs = st.integers(1, 10**10).flatmap(
    lambda total: st.tuples(st.just(total), st.sampled_from([0, total - 1]) | st.integers(0, total - 1))
)


@given(schedule=schedules, run=runs, peak=st.floats(1e-12, 10))
def test_every_step_of_every_schedule_has_a_rate_above_0_and_none_one_above_the_peak(
    schedule: Schedule, run: tuple[int, int], peak: float
) -> None:
    total_steps, step = run
    assert 0 < learning_rate(step, total_steps, peak, schedule) <= peak * (1 + 1e-12)


@given(schedule=schedules, total_steps=st.integers(1, 300))
def test_the_rate_climbs_to_the_peak_and_never_climbs_again(schedule: Schedule, total_steps: int) -> None:
    rates = [learning_rate(step, total_steps, PEAK, schedule) for step in range(total_steps)]
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(PEAK)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == pytest.approx(sorted(rates[top:], reverse=True))


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd"])
@pytest.mark.parametrize("warmup", [0.0, 0.01, 0.5, 1.0])
def test_a_run_of_one_step_makes_it_at_the_peak(kind: str, warmup: float) -> None:
    schedule = Schedule.model_validate({"type": kind, "warmup": warmup, "minRatio": 0.0})
    assert learning_rate(0, 1, PEAK, schedule) == PEAK


def test_wsd_is_constant_and_then_decays_over_the_last_fifth() -> None:
    schedule = Schedule(type="wsd", warmup=0.1, min_ratio=0.5)
    rates = [learning_rate(step, 100, PEAK, schedule) / PEAK for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.75)
    assert rates[99] == pytest.approx(0.525)


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    module = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.LayerNorm(3))
    decayed, rest = build_optimizer(module, Optimizer(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.3, 0.0)
    assert [parameter.shape for parameter in decayed["params"]] == [(4, 3), (3, 3)]
    assert [parameter.shape for parameter in rest["params"]] == [(3,), (3,), (3,)]
