"""What an attempt leaves to the next, and the names that checkpoints have for it."""

from __future__ import annotations

from typing import Any, cast

import torch
from runyard_trainer.checkpoints.files import MODEL_WEIGHTS_PREFIX
from runyard_trainer.contract.reports import Losses
from runyard_trainer.objectives.base import ObjectiveModule, Traits
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.state import ShardedState, TrainState, name_parts, name_weights
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict


def test_the_parts_of_a_checkpoint_keep_the_names_that_stored_checkpoints_have() -> None:
    module = cast(Any, ObjectiveModule(nn.Linear(2, 2), Traits(stochastic=False)))
    parts = name_parts(module, torch.optim.AdamW(module.parameters()), TrainState(), Monitor(1, 1))
    assert [*parts] == ["sharded", "train", "monitor"]
    assert [*name_weights(module)] == ["sharded"]
    assert [*cast(ShardedState, parts["sharded"]).state_dict()] == ["weights", "optimizer"]
    names = [f"sharded.weights.{name}" for name in get_model_state_dict(module)]
    assert names == [f"{MODEL_WEIGHTS_PREFIX}weight", f"{MODEL_WEIGHTS_PREFIX}bias"]


def test_the_loops_state_is_read_back_as_it_was_saved() -> None:
    saved = TrainState(step=7, tokens=70, micro_batch=2, world_size=4)
    saved.note_before(Losses(domain_loss=3.0), ["an answer"], "f00d")
    saved.note_losses(Losses(domain_loss=1.5, metrics={"accuracy": 0.5}))
    found = TrainState()
    found.load_state_dict(saved.state_dict())
    assert found == saved
    assert found.losses_before == Losses(domain_loss=3.0)
    assert (found.base_answers, found.prompts) == (["an answer"], "f00d")
    assert [(each.step, each.losses.domain_loss) for each in found.candidates] == [(7, 1.5)]


def test_without_prompts_no_answers_are_noted() -> None:
    state = TrainState()
    state.note_before(Losses(domain_loss=3.0), None, None)
    assert (state.base_answers, state.prompts) == (None, None)


def test_a_model_is_measured_until_the_next_step() -> None:
    state = TrainState(step=2)
    assert not state.is_measured
    state.note_losses(Losses())
    assert state.is_measured
    state.step = 3
    assert not state.is_measured


def test_what_happens_every_so_many_steps_is_due_at_multiples() -> None:
    assert [step for step in range(1, 8) if TrainState(step=step).is_due(3)] == [3, 6]
    assert not TrainState(step=3).is_due(None)
