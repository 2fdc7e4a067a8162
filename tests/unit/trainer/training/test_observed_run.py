"""Stages of a run: what /progress names, what the watchdog bounds, and what follows."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.open import open_store
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.observed_run import ObservedRun, observe_run
from runyard_trainer.training.watchdog import Watchdog, stacks_location

from tests.waiting import wait_until


def build_run(stall_s: float = 0.0, stalls: list[str] | None = None) -> ObservedRun:
    found = stalls if stalls is not None else []
    return ObservedRun(Monitor(1, 10), Watchdog(stall_s, lambda what, _since: found.append(what)))


def test_a_stage_within_another_goes_back_to_it_and_those_outside_follow_one_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = build_run()
    with caplog.at_level(logging.INFO):
        with run.stage("evaluating"):
            assert run.monitor.progress.stage == "evaluating"
        assert run.monitor.progress.stage == "evaluating", "nothing is around it to go back to"
        with run.stage("training"):
            with run.stage("evaluating"):
                assert run.monitor.progress.stage == "evaluating"
            assert run.monitor.progress.stage == "training"
        with run.stage("exporting"):
            pass
    want = ["evaluating", "training", "evaluating", "training", "exporting"]
    assert [record.getMessage() for record in caplog.records] == [f"stage: {stage}" for stage in want]


def test_a_stage_that_fails_stays_the_one_that_progress_names() -> None:
    run = build_run()
    with pytest.raises(ZeroDivisionError), run.stage("training"), run.stage("evaluating"):
        raise ZeroDivisionError
    assert run.monitor.progress.stage == "evaluating"


def test_a_stage_is_bound_by_the_watchdog_only_where_it_says_what_it_does() -> None:
    stalls: list[str] = []
    run = build_run(0.2, stalls)
    try:
        with run.stage("evaluating", "the evaluation after 3 steps"):
            wait_until(lambda: stalls, 30)
        with run.stage("exporting"):
            run.watchdog.beat()
            assert stalls == ["the evaluation after 3 steps"]
    finally:
        run.watchdog.close()


def test_a_run_that_stalls_leaves_its_stacks_and_progress_says_since_when_until_it_goes_on(tmp_path: Path) -> None:
    output = open_store(f"file://{tmp_path}/out", Storage())
    recipe = Recipe.model_validate(
        {
            "model": {"uri": "file:///model"},
            "data": {"train": [{"uri": "file:///text/"}]},
            "training": {"steps": 3},
            "output": {"uri": output.uri},
        }
    )
    context = RunContext.from_environment({"TMPDIR": str(tmp_path), "RUNYARD_ON_STALL": "Notify"}, recipe)
    context = dataclasses.replace(context, stall_s=0.2)
    with observe_run(3, output, context, end_process=pytest.fail) as run:
        with run.watchdog.watching("step 1"):
            wait_until(lambda: run.monitor.progress.stalled_since, 60)
        assert run.monitor.progress.stalled_since is None
    stacks = (stacks_location(output, context.attempt) / "rank-0.txt").get().data
    assert b"test_observed_run.py" in stacks
