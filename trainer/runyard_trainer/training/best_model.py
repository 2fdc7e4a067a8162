"""Choose which of the models that a run has measured is exported, and when to stop early. Pure.

    every `evaluation.everySteps` and after the last step: measure ─> a candidate
      best        among candidates that keep to `evaluation.maxGeneralLossIncrease`, the one with the best value of the
                  objective's measure, the earliest of equals; where none keeps to it, the one that forgot least
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
    """A measured model: its step and its losses."""

    step: int
    losses: Losses


@dataclass(frozen=True)
class Criterion:
    """How candidates are compared, and the limit they must keep to."""

    metric: str | None
    """One of the objective's metrics, higher is better; None: the domain loss, lower is better."""
    general_loss_before: float | None = None
    """General loss of the model before the first step."""
    max_general_loss_increase: float | None = None
    """Nats per token by which the general loss may rise."""

    def value_of(self, candidate: Candidate) -> float:
        """Return what the candidate is compared by, higher is better; minus infinity where it was not measured."""
        losses = candidate.losses
        if self.metric is not None:
            return (losses.metrics or {}).get(self.metric, float("-inf"))
        return float("-inf") if losses.domain_loss is None else -losses.domain_loss

    def excess_of(self, candidate: Candidate) -> float:
        """Return by how many nats per token the general loss has risen more than it may; 0 where it has not."""
        limit, before, after = self.max_general_loss_increase, self.general_loss_before, candidate.losses.general_loss
        if limit is None or before is None or after is None:
            return 0.0
        return max(0.0, after - before - limit)


def build_criterion(recipe: Recipe, best_by: str | None, before: Mapping[str, Any] | None) -> Criterion:
    """Build the criterion of a run from its objective's metric and the `Losses` before the first step."""
    general_loss = (before or {}).get("general_loss")
    return Criterion(best_by, general_loss, recipe.evaluation.max_general_loss_increase)


def choose_best(candidates: Sequence[Candidate], criterion: Criterion) -> Candidate:
    """Return the candidate to export, of at least one; the last one where none of them has a value."""
    keeping = [candidate for candidate in candidates if criterion.excess_of(candidate) <= _ROUNDING]
    if not keeping:
        return min(candidates, key=criterion.excess_of)
    best = max(keeping, key=criterion.value_of)
    return best if criterion.value_of(best) > float("-inf") else keeping[-1]


def find_best_step(candidates: Sequence[Candidate], criterion: Criterion) -> int | None:
    """Return the step of the best candidate so far; None where there is none."""
    return choose_best(candidates, criterion).step if candidates else None


def should_stop_early(candidates: Sequence[Candidate], criterion: Criterion, stopping: EarlyStopping | None) -> bool:
    """Return whether none of the last `patience` candidates was better than the best one before them."""
    if stopping is None or len(candidates) <= stopping.patience:
        return False
    earlier, last = candidates[: -stopping.patience], candidates[-stopping.patience :]
    best = max(map(criterion.value_of, earlier))
    return all(criterion.value_of(candidate) < best + max(stopping.min_delta, _ROUNDING) for candidate in last)


def check_forgetting(best: Candidate, criterion: Criterion, recipe: Recipe) -> str | None:
    """Return a warning where even the best candidate has forgotten more than it may.

    Raises:
        UserError: FORGETTING: instead of a warning, where the recipe says `onViolation: Fail`.
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
