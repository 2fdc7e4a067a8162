"""Stages of a run: what /progress names, what the watchdog bounds, and what follows."""

from __future__ import annotations

import logging

import pytest
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.observed_run import ObservedRun
from runyard_trainer.training.watchdog import Watchdog

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
