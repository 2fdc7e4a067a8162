"""Which model is exported, and when a run ends early: by example."""

from __future__ import annotations

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.training import EarlyStopping
from runyard_trainer.training.best_model import (
    Candidate,
    Criterion,
    check_forgetting,
    choose_best,
    find_best_step,
    should_stop_early,
)

BY_LOSS = Criterion(metric=None)
LIMITED = Criterion(metric=None, general_loss_before=3.0, max_general_loss_increase=0.1)


def measured(*losses: tuple[float, float]) -> list[Candidate]:
    """(domain loss, general loss) every ten steps."""
    return [
        Candidate(10 * number, Losses(domain_loss=domain, general_loss=general))
        for number, (domain, general) in enumerate(losses, start=1)
    ]


@pytest.mark.parametrize(
    ("candidates", "criterion", "want"),
    [
        (measured((2.0, 3.0), (1.5, 3.0), (1.7, 3.0)), BY_LOSS, 20),
        (measured((2.0, 3.0), (1.5, 3.0), (1.5, 3.0)), BY_LOSS, 20),
        (measured((2.0, 3.05), (1.5, 3.2), (1.4, 3.3)), LIMITED, 10),
        (measured((2.0, 3.3), (1.5, 3.2), (1.4, 3.4)), LIMITED, 20),
        (measured((2.0, 3.1), (1.5, 3.2)), LIMITED, 10),
    ],
    ids=[
        "the least loss",
        "the earliest of equals",
        "the least loss among those that keep to the limit",
        "where none keeps to it, the one that forgot least",
        "what rises by just the limit keeps to it",
    ],
)
def test_the_best_model_is(candidates: list[Candidate], criterion: Criterion, want: int) -> None:
    assert choose_best(candidates, criterion).step == want
    assert find_best_step(candidates, criterion) == want


def test_of_a_metric_more_is_better() -> None:
    candidates = [
        Candidate(step, Losses(domain_loss=1.0, metrics={"macroF1": f1})) for step, f1 in ((1, 0.5), (2, 0.7))
    ]
    assert choose_best(candidates, Criterion("macroF1")).step == 2


def test_where_nothing_was_held_out_the_last_model_is_exported() -> None:
    assert choose_best([Candidate(1, Losses()), Candidate(2, Losses())], BY_LOSS).step == 2
    assert find_best_step([], BY_LOSS) is None


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "want"),
    [
        ([2.0, 1.5, 1.6, 1.7], 2, 0.0, True),
        ([2.0, 1.5, 1.6, 1.4], 2, 0.0, False),
        ([2.0, 1.5], 2, 0.0, False),
        ([2.0, 1.99, 1.98], 2, 0.05, True),
        ([2.0, 2.0, 2.0], 2, 0.0, True),
    ],
)
def test_a_run_is_hopeless_when_the_last_measurements_are_no_better(
    losses: list[float], patience: int, min_delta: float, want: bool
) -> None:
    candidates = measured(*((loss, 0.0) for loss in losses))
    assert should_stop_early(candidates, BY_LOSS, EarlyStopping(patience=patience, min_delta=min_delta)) is want
    assert not should_stop_early(candidates, BY_LOSS, None)


def build_recipe(on_violation: str) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"uri": "s3://bucket/model"},
            "data": {"train": [{"uri": "s3://bucket/text/"}]},
            "evaluation": {
                "general": [{"uri": "s3://bucket/general/"}],
                "maxGeneralLossIncrease": 0.1,
                "onViolation": on_violation,
            },
            "output": {"uri": "s3://bucket/output"},
        }
    )


def test_a_model_that_forgot_too_much_is_exported_with_a_warning_or_fails_the_run() -> None:
    (best,) = measured((1.0, 3.35))
    warning = check_forgetting(best, LIMITED, build_recipe("Warn"))
    assert warning is not None
    assert "maxGeneralLossIncrease is 0.1 nats" in warning
    assert "step 10, which forgot least, is 0.250 above that" in warning
    with pytest.raises(UserError, match=r"maxGeneralLossIncrease") as failed:
        check_forgetting(best, LIMITED, build_recipe("Fail"))
    assert failed.value.code is ExitCode.FORGETTING
    assert check_forgetting(measured((1.0, 3.05))[0], LIMITED, build_recipe("Fail")) is None
