"""What is kept of what the watches said, and for how long it counts."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.sightings import COUNTS_FOR_S, Sightings
from runyard.world import Observed

from tests.builders import make_pod, make_prepare_job, make_run

RUN = make_run()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def job() -> dict[str, Any]:
    return {"kind": "Job", **make_prepare_job()}


@pytest.fixture
def pod(job: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Pod", **make_pod(job)}


def test_of_a_run_without_anything_nothing_is_known_for_sure_at_any_time(clock: Clock) -> None:
    assert Sightings(clock).recall(RUN) == Observed()


def test_the_last_word_about_each_counts(clock: Clock, job: dict[str, Any], pod: dict[str, Any]) -> None:
    sightings = Sightings(clock)
    for each in (job, pod, pod | {"status": {"phase": "Running"}}):
        sightings.note(each, is_gone=False)
    assert sightings.recall(RUN) == Observed(jobs=(job,), pods=(pod | {"status": {"phase": "Running"}},))
    sightings.note(pod, is_gone=True)
    assert sightings.recall(RUN) == Observed(jobs=(job,))
    sightings.note(job, is_gone=True)
    assert sightings.recall(RUN) == Observed()


def test_a_job_that_another_has_made_is_not_the_runs(clock: Clock, job: dict[str, Any]) -> None:
    sightings = Sightings(clock)
    job["metadata"]["ownerReferences"] = []
    sightings.note(job, is_gone=False)
    assert sightings.recall(RUN) == Observed()


def test_it_counts_for_a_while_since_it_was_first_seen_or_all_was_read(clock: Clock, job: dict[str, Any]) -> None:
    sightings = Sightings(clock)
    sightings.note(job, is_gone=False)
    clock.now_s += COUNTS_FOR_S
    sightings.note(job, is_gone=False)  # says nothing about what else is gone
    assert sightings.recall(RUN) is not None
    clock.now_s += 1
    assert sightings.recall(RUN) is None
    sightings.confirm(RUN.uid)
    assert sightings.recall(RUN) == Observed(jobs=(job,))


def test_what_is_gone_leaves_nothing_behind(clock: Clock, job: dict[str, Any]) -> None:
    sightings = Sightings(clock)
    sightings.note(job, is_gone=True)
    sightings.note(job, is_gone=False)
    sightings.note(job, is_gone=True)
    sightings.confirm(RUN.uid)
    clock.now_s += 10 * COUNTS_FOR_S
    assert sightings.recall(RUN) == Observed()
    assert not any(vars(sightings)[name] for name in ("_seen", "_confirmed_s"))
