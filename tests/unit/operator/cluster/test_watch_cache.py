"""What is kept of what the watches said, and for how long it counts."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.cluster.objects import parse_run
from runyard.cluster.watch_cache import COUNTS_FOR_S, WatchCache
from runyard.control.work_queue import RESYNC_S, SHORTEST_RESYNC
from runyard.decide.values import Key, Observed

from tests.builders import make_pod, make_prepare_job, make_run
from tests.cluster.lab import SPEC

KEY = Key(make_run().namespace, make_run().name)
MANIFEST: dict[str, Any] = {
    "metadata": {
        "namespace": KEY.namespace,
        "name": KEY.name,
        "uid": make_run().uid,
        "generation": 1,
        "resourceVersion": "7",
    },
    "spec": SPEC,
}


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


@pytest.fixture
def cache(clock: Clock) -> WatchCache:
    cache = WatchCache(clock)
    cache.note_run(MANIFEST, is_gone=False)
    return cache


def find(cache: WatchCache) -> Observed | None:
    recalled = cache.find(KEY)
    assert recalled is None or recalled[0] == parse_run(MANIFEST)
    return None if recalled is None else recalled[1]


def test_of_a_run_that_was_never_seen_nothing_is_known(clock: Clock) -> None:
    assert WatchCache(clock).find(KEY) is None


def test_the_last_word_about_each_counts(cache: WatchCache, job: dict[str, Any], pod: dict[str, Any]) -> None:
    assert find(cache) == Observed()
    for each in (job, pod, pod | {"status": {"phase": "Running"}}):
        cache.note_owned(each, is_gone=False)
    assert find(cache) == Observed(jobs=(job,), pods=(pod | {"status": {"phase": "Running"}},))
    cache.note_owned(pod, is_gone=True)
    assert find(cache) == Observed(jobs=(job,))
    cache.note_owned(job, is_gone=True)
    assert find(cache) == Observed()


def test_a_job_that_another_has_made_is_not_the_runs(cache: WatchCache, job: dict[str, Any]) -> None:
    job["metadata"]["ownerReferences"] = []
    cache.note_owned(job, is_gone=False)
    assert find(cache) == Observed()


def test_it_counts_for_a_while_since_the_run_was_first_seen_or_all_was_read(
    clock: Clock, cache: WatchCache, job: dict[str, Any]
) -> None:
    cache.note_owned(job, is_gone=False)
    clock.now_s += COUNTS_FOR_S
    cache.note_owned(job, is_gone=False)  # says nothing about what else is gone
    cache.note_run(MANIFEST, is_gone=False)
    assert find(cache) is not None
    clock.now_s += 1
    assert find(cache) is None
    cache.confirm(MANIFEST["metadata"]["uid"])
    assert find(cache) == Observed(jobs=(job,))


def test_a_queue_reads_all_of_a_run_on_which_nothing_happens() -> None:
    assert COUNTS_FOR_S < SHORTEST_RESYNC * RESYNC_S


def test_what_is_gone_leaves_nothing_behind(cache: WatchCache, job: dict[str, Any]) -> None:
    cache.note_owned(job, is_gone=False)
    cache.note_run(MANIFEST, is_gone=True)
    cache.confirm(MANIFEST["metadata"]["uid"])
    cache.note_owned(job, is_gone=False)
    cache.note_owned(job, is_gone=True)
    assert find(cache) is None
    assert not any(vars(cache)[name] for name in ("_runs", "_owned", "_confirmed_s"))
