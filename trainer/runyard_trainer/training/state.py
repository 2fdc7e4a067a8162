"""What an attempt leaves to the next in its checkpoints.

name_parts ─> SHARDED: trained weights, optimizer    TRAIN_STATE: TrainState    MONITOR: metrics.csv
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor

from runyard_trainer.checkpoints.files import MONITOR, OPTIMIZER, SHARDED, TRAIN_STATE, WEIGHTS
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import Losses
from runyard_trainer.training.best_model import Candidate
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.sharded_model import ShardedModule
from runyard_trainer.training.step import StepResult

log = logging.getLogger(__name__)


MAX_NON_FINITE_STEPS = 5
"""Steps in a row without a finite loss and gradient that end the run."""


@dataclass
class TrainState:
    """The loop's state: all that resumes besides weights, optimizer and metrics. Checkpoints hold it by field name."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    tokens: int = 0
    """Tokens trained on."""
    non_finite_steps: int = 0
    """Steps that were skipped in a row, up to now."""
    before: dict[str, Any] | None = None
    """`Losses` of the model before the first step, per token of the run's tokenizer."""
    base_answers: list[str] | None = None
    """What the model wrote to the judge's prompts before the first step."""
    prompts: str | None = None
    """sha256 of the prompts that `base_answers` answer."""
    measured: list[dict[str, Any]] = field(default_factory=list)
    """Every `Candidate` since the first step."""
    is_stopped_early: bool = False
    micro_batch: int = 0
    """Sequences in a forward pass, as resolved for `world_size`; 0 until then."""
    world_size: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return one value for the checkpoint, whatever the fields hold."""
        return {"json": json.dumps(asdict(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all fields."""
        self.__dict__.update(json.loads(state["json"]))

    @property
    def losses_before(self) -> Losses | None:
        """Losses of the model before the first step; None where they were not measured."""
        return Losses(**self.before) if self.before else None

    @property
    def candidates(self) -> list[Candidate]:
        """The models that may be exported, in order of step."""
        return [Candidate(each["step"], Losses(**each["losses"])) for each in self.measured]

    @property
    def is_measured(self) -> bool:
        """Whether the model was measured after the last step done."""
        return bool(self.measured) and self.measured[-1]["step"] == self.step

    def note_before(self, losses: Losses, answers: list[str] | None, prompts_sha256: str | None) -> None:
        """Note what was measured of the model before the first step."""
        self.before = losses.model_dump()
        if answers is not None:
            self.base_answers, self.prompts = answers, prompts_sha256

    def note_losses(self, losses: Losses) -> None:
        """Note what was measured of the model after the last step done."""
        self.measured.append({"step": self.step, "losses": losses.model_dump()})

    def is_due(self, every_steps: int | None) -> bool:
        """Return whether the last step done is a multiple of `every_steps`; never where that is None."""
        return every_steps is not None and self.step % every_steps == 0


TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Leave out frozen weights, which each attempt loads from the source model again."""


def drop_buffers(weights: dict[str, Any]) -> dict[str, Any]:
    """Return the weights without buffers, which are not sharded."""
    return {name: weight for name, weight in weights.items() if isinstance(weight, DTensor)}


@dataclass
class ShardedState:
    """The trained weights and the optimizer, as checkpoints hold them."""

    module: ShardedModule
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's parts, by name."""
        weights, optimizer = get_state_dict(self.module, self.optimizer, options=TRAINED_ONLY)
        return {WEIGHTS: drop_buffers(weights), OPTIMIZER: optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's parts."""
        set_state_dict(
            self.module,
            self.optimizer,
            model_state_dict=state[WEIGHTS],
            optim_state_dict=state[OPTIMIZER],
            options=TRAINED_ONLY,
        )


@dataclass
class Weights:
    """The trained weights alone, as checkpoints hold them."""

    module: ShardedModule

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's parts, by name."""
        return {WEIGHTS: drop_buffers(get_model_state_dict(self.module, options=TRAINED_ONLY))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's parts."""
        set_model_state_dict(self.module, state[WEIGHTS], options=TRAINED_ONLY)


def name_parts(
    module: ShardedModule, optimizer: torch.optim.Optimizer, state: TrainState, monitor: Monitor
) -> dict[str, Any]:
    """Return all that a run saves, by the names that checkpoints have for it."""
    return {SHARDED: ShardedState(module, optimizer), TRAIN_STATE: state, MONITOR: monitor}


def name_weights(module: ShardedModule) -> dict[str, Any]:
    """Return the trained weights, by the name that checkpoints have for them."""
    return {SHARDED: Weights(module)}


def count_non_finite(state: TrainState, done: StepResult, total_steps: int) -> None:
    """Count the step where it was skipped.

    Raises:
        UserError: NON_FINITE: MAX_NON_FINITE_STEPS were skipped in a row, or all steps of a shorter run.
    """
    if done.is_finite:
        state.non_finite_steps = 0
        return
    state.non_finite_steps += 1
    log.warning("step %d skipped: loss %s, gradient norm %s", state.step, done.loss, done.grad_norm)
    if state.non_finite_steps >= min(MAX_NON_FINITE_STEPS, total_steps):
        raise UserError(
            f"loss or gradient was not finite in {state.non_finite_steps} steps in a row, up to step {state.step}: "
            "lower training.learningRate, lengthen training.schedule.warmup, or look at the text of those steps",
            ExitCode.NON_FINITE,
        )
