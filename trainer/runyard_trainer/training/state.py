"""What an attempt leaves to the next: the loop's own state, the weights that are trained, the optimizer."""

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

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import Losses
from runyard_trainer.training.best_model import Candidate
from runyard_trainer.training.sharded_model import ShardedModule
from runyard_trainer.training.step import StepResult

log = logging.getLogger(__name__)


MAX_NON_FINITE_STEPS = 5
"""So many steps in a row without a finite loss and gradient end the run."""


@dataclass
class TrainState:
    """All that resumes besides weights, optimizer and metrics."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    tokens: int = 0
    """Trained on."""
    non_finite_steps: int = 0
    """Skipped, one after the other, up to now."""
    before: dict[str, Any] | None = None
    """`Losses` of the model as it came, per token of the run's tokenizer."""
    base_answers: list[str] | None = None
    """What it wrote for the judge to read."""
    prompts: str | None = None
    """sha256 of the prompts that these are answers to."""
    measured: list[dict[str, Any]] = field(default_factory=list)
    """Every `Candidate` since."""
    is_stopped_early: bool = False
    micro_batch: int = 0
    """Sequences in a forward pass, as it was resolved for `world_size`; 0 until then."""
    world_size: int = 0

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: one value, whatever it holds."""
        return {"json": json.dumps(asdict(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all values."""
        self.__dict__.update(json.loads(state["json"]))

    @property
    def candidates(self) -> list[Candidate]:
        """What may be exported, in order of step."""
        return [Candidate(each["step"], Losses(**each["losses"])) for each in self.measured]

    def note_losses(self, losses: Losses) -> None:
        """The model as it is now was measured."""
        self.measured.append({"step": self.step, "losses": losses.model_dump()})


TRAINED_ONLY = StateDictOptions(ignore_frozen_params=True, strict=False)
"""What is frozen comes from where the run has started, each time: checkpoints do without it. So do buffers."""


def trained_only(weights: dict[str, Any]) -> dict[str, Any]:
    """Without buffers, which are not sharded."""
    return {name: weight for name, weight in weights.items() if isinstance(weight, DTensor)}


@dataclass
class ShardedState:
    """The weights that are trained, and the optimizer, as checkpoints take them."""

    module: ShardedModule
    optimizer: torch.optim.Optimizer

    def state_dict(self) -> dict[str, Any]:
        """This rank's parts, by name."""
        weights, optimizer = get_state_dict(self.module, self.optimizer, options=TRAINED_ONLY)
        return {"weights": trained_only(weights), "optimizer": optimizer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's parts."""
        set_state_dict(
            self.module,
            self.optimizer,
            model_state_dict=state["weights"],
            optim_state_dict=state["optimizer"],
            options=TRAINED_ONLY,
        )


@dataclass
class Weights:
    """The weights that are trained, alone, as checkpoints give them."""

    module: ShardedModule

    def state_dict(self) -> dict[str, Any]:
        """This rank's parts, by name."""
        return {"weights": trained_only(get_model_state_dict(self.module, options=TRAINED_ONLY))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over this rank's parts."""
        set_model_state_dict(self.module, state["weights"], options=TRAINED_ONLY)


def count_non_finite(state: TrainState, done: StepResult, total_steps: int) -> None:
    """Note whether the step was skipped.

    Raises:
        UserError: NON_FINITE: too many were, one after the other, or all that a short run has.
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
