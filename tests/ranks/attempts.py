"""What one rank does in an attempt at a run, for `run_ranks`: train to the end, or be disturbed on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import Interrupted
from runyard_trainer.contract.recipe import Recipe

from tests.ranks.outputs import folder_of, read_losses
from tests.ranks.run_ranks import run_ranks
from tests.waiting import wait_until

GRACE_S = 30
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def train_rank(world: World, recipe: Recipe, attempt: int = 1, environment: Mapping[str, str] = NO_VARIABLES) -> str:
    """Train as one rank of a prepared run; return "finished", or why the attempt was interrupted."""
    from runyard_trainer.train import train  # here: a process that only starts ranks does without torch

    variables = {"TMPDIR": str(folder_of(recipe)), "RUNYARD_GRACE_SECONDS": str(GRACE_S), **environment}
    context = RunContext.from_environment(variables, recipe)
    try:
        train(recipe, dataclasses.replace(context, world=world, attempt=attempt))
    except Interrupted as reason:
        return f"interrupted: {reason}"
    return "finished"


# -------------------------------------------------------------------------------------------------------- disturbances


def once_it_commits(recipe: Recipe, act: Callable[[], None]) -> None:
    """Start a thread that acts as soon as head.json names another checkpoint than it does now."""
    known = committed(recipe)

    def watch() -> None:
        wait_until(lambda: committed(recipe) not in (None, known), 60)
        act()

    threading.Thread(target=watch, daemon=True).start()


def committed(recipe: Recipe) -> Any:
    """Return what head.json says of the newest checkpoint; None where there is none."""
    head = folder_of(recipe) / "head.json"
    return json.loads(head.read_text())["checkpoint"] if head.exists() else None


def send_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disturbed_rank(
    world: World, recipe: Recipe, rank: int, disturb: Callable[[], None], environment: Mapping[str, str] = NO_VARIABLES
) -> str:
    """Train as `train_rank` does, but something happens to one rank once a checkpoint is committed."""
    if world.rank == rank:
        once_it_commits(recipe, disturb)
    return train_rank(world, recipe, 1, environment)


def stopped_rank(world: World, recipe: Recipe, last_step: int) -> str:
    """Train as `train_rank` does, but be told to stop at that step."""
    from runyard_trainer import train as train_module

    take_step = train_module.take_step

    def take_or_stop(learner: Any, batches: Any, number: int, stop: bool) -> Any:
        return take_step(learner, batches, number, stop or number == last_step)

    train_module.take_step = take_or_stop
    return train_rank(world, recipe)


# --------------------------------------------------------------------------------------------------------- comparisons


def train_and_compare(recipe: Recipe, want: list[float]) -> list[float]:
    """Train on two ranks; every step loses what the reference loses, to 1e-5. Return the losses."""
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    losses = read_losses(recipe)
    assert losses == pytest.approx(want, rel=1e-5)
    assert len(set(losses)) == recipe.training.steps
    return losses


def check_interrupted(broken: Recipe, whole: Recipe, *files: str) -> None:
    """Stop a run behind its 13th step and go on: losses and files are those of the run that was left alone."""
    assert run_ranks(stopped_rank, 2, broken, 12) == ["interrupted: stopped by a signal; step 13 is saved"] * 2
    assert run_ranks(train_rank, 2, broken, 2) == ["finished"] * 2
    assert read_losses(broken) == read_losses(whole)
    for name in files:
        assert Path(folder_of(broken), name).read_bytes() == Path(folder_of(whole), name).read_bytes(), name
