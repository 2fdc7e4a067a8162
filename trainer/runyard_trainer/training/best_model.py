"""Which of the models that a run has measured is exported, and when going on is of no more use. Pure.

    every `evaluation.everySteps` and after the last step: measure ─> a candidate
      best        the candidate with the best value of the objective's measure, the earliest of equals, among those that
                  keep to `evaluation.maxGeneralLossIncrease`; where none does, the one that forgot least
      early stop  none of the last `patience` candidates was better by `minDelta` than the best before them

Candidates travel in the checkpoints, so a resumed run chooses as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.training import EarlyStopping

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Candidate:
    """The model after a step, as it was measured."""

    step: int
    losses: Losses


@dataclass(frozen=True)
class Criterion:
    """What makes a candidate better than another, and what it must keep to."""

    metric: str | None
    """One of the objective's metrics, of which more is better; None: the domain loss, of which less is."""
    general_loss_before: float | None = None
    """Of the model as it came."""
    max_general_loss_increase: float | None = None
    """Nats per token that it may have risen."""

    def value_of(self, candidate: Candidate) -> float:
        """More is better; minus infinity where nothing was measured."""
        losses = candidate.losses
        if self.metric is not None:
            return (losses.metrics or {}).get(self.metric, float("-inf"))
        return float("-inf") if losses.domain_loss is None else -losses.domain_loss

    def excess_of(self, candidate: Candidate) -> float:
        """Nats per token by which the general loss has risen more than it may; 0 where it has not."""
        limit, before, after = self.max_general_loss_increase, self.general_loss_before, candidate.losses.general_loss
        if limit is None or before is None or after is None:
            return 0.0
        return max(0.0, after - before - limit)


def build_criterion(recipe: Recipe, best_by: str | None, before: Mapping[str, Any] | None) -> Criterion:
    """Of a run: the objective's metric, and the `Losses` of the model as it came."""
    general_loss = (before or {}).get("general_loss")
    return Criterion(best_by, general_loss, recipe.evaluation.max_general_loss_increase)


def choose_best(candidates: Sequence[Candidate], criterion: Criterion) -> Candidate:
    """The one to export, of at least one; the last where nothing tells them apart."""
    keeping = [candidate for candidate in candidates if criterion.excess_of(candidate) <= _ROUNDING]
    if not keeping:
        return min(candidates, key=criterion.excess_of)
    best = max(keeping, key=criterion.value_of)
    return best if criterion.value_of(best) > float("-inf") else keeping[-1]


def find_best_step(candidates: Sequence[Candidate], criterion: Criterion) -> int | None:
    """Of what was measured so far; None where nothing was."""
    return choose_best(candidates, criterion).step if candidates else None


def is_hopeless(candidates: Sequence[Candidate], criterion: Criterion, stopping: EarlyStopping | None) -> bool:
    """Whether the last candidates say that going on is of no more use."""
    if stopping is None or len(candidates) <= stopping.patience:
        return False
    earlier, last = candidates[: -stopping.patience], candidates[-stopping.patience :]
    best = max(map(criterion.value_of, earlier))
    return all(criterion.value_of(candidate) < best + max(stopping.min_delta, _ROUNDING) for candidate in last)


def check_forgetting(best: Candidate, criterion: Criterion, recipe: Recipe) -> str | None:
    """What to say where even the best has forgotten more than it may.

    Raises:
        UserError: FORGETTING: where the recipe has it fail.
    """
    excess = criterion.excess_of(best)
    if excess <= _ROUNDING:
        return None
    warning = (
        f"evaluation.maxGeneralLossIncrease is {recipe.evaluation.max_general_loss_increase:g} nats, and even the "
        f"model of step {best.step}, which forgot least, is {excess:.3f} above that: replay more "
        "(data.replay.fraction), lower training.learningRate, or allow more"
    )
    if recipe.evaluation.on_violation == "Fail":
        raise UserError(warning, ExitCode.FORGETTING)
    return warning
