"""The arithmetic of quotas, and the order of those that wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard.decide.quota.gangs import Gang, Quota, Ticket, find_ahead, find_shortages, is_hopeless, read_quota
from runyard.decide.values import Manifest

from tests.builders import make_pod_spec

GPU = "requests.nvidia.com/gpu"


def gang(num_pods: int, gpus: int = 1, **fields: Any) -> Gang:
    return Gang(make_pod_spec(gpus), num_pods, **fields)


def quota(hard: int = 8, used: int = 0, **more: tuple[str, str]) -> Quota:
    return read_quota(
        {
            "metadata": {"name": "gpus"},
            "spec": {"hard": {GPU: str(hard)} | {name: hard for name, (hard, _) in more.items()}},
            "status": {"used": {GPU: str(used)} | {name: used for name, (_, used) in more.items()}},
        }
    )


# --------------------------------------------------------------------------------------------------------------- scopes


def scoped(*expressions: dict[str, Any], scopes: tuple[str, ...] = ()) -> Quota:
    spec: Manifest = {"hard": {"pods": "0"}, "scopes": list(scopes)}
    if expressions:
        spec["scopeSelector"] = {"matchExpressions": list(expressions)}
    return read_quota({"metadata": {"name": "q"}, "spec": spec})


def priority(operator: str, *values: str) -> dict[str, Any]:
    return {"scopeName": "PriorityClass", "operator": operator, "values": list(values)}


@pytest.mark.parametrize(
    ("the_quota", "priority_class", "want"),
    [
        (scoped(priority("In", "research")), "research", True),
        (scoped(priority("In", "research")), "urgent", False),
        (scoped(priority("In", "research")), None, False),
        (scoped(priority("NotIn", "research")), None, True),
        (scoped(priority("Exists")), None, False),
        (scoped(priority("DoesNotExist")), None, True),
        (scoped(scopes=("PriorityClass",)), "research", True),
        (scoped(scopes=("NotTerminating", "NotBestEffort")), None, True),
        (scoped(scopes=("Terminating",)), None, False),
        (scoped(scopes=("BestEffort",)), None, False),
        (scoped(scopes=("CrossNamespacePodAffinity",)), None, False),
    ],
)
def test_a_quota_with_scopes_covers_only_what_these_select(
    the_quota: Quota, priority_class: str | None, want: bool
) -> None:
    assert the_quota.covers(make_pod_spec(), priority_class) is want
    blocked = find_shortages(gang(1, priority_class=priority_class), [the_quota])
    assert bool(blocked) is want


# ------------------------------------------------------------------------------------------------------------ admission


def test_a_gang_fits_as_a_whole_or_not_at_all() -> None:
    assert find_shortages(gang(4), [quota(hard=8, used=4)]) == []
    [short] = find_shortages(gang(5), [quota(hard=8, used=4)])
    assert (short.resource, short.needed, short.free, short.hard) == (GPU, 5, 4, 8)


def test_every_resource_of_every_quota_is_held_against_it_and_gpus_are_named_first() -> None:
    tight = quota(
        hard=2, used=0, **{"requests.cpu": ("1", "0"), "count/jobs.batch": ("3", "3"), "services": ("0", "0")}
    )
    names = [short.resource for short in find_shortages(gang(3, num_jobs=1), [quota(8), tight])]
    assert names == [GPU, "requests.cpu", "count/jobs.batch"]


def test_pods_that_a_job_has_not_made_yet_are_counted_and_those_it_has_made_are_not_counted_twice() -> None:
    just_made = gang(4)
    half_made = gang(4, num_charged_pods=2)
    assert find_shortages(gang(5), [quota(hard=8)], holders=[just_made])
    assert not find_shortages(gang(4), [quota(hard=8)], holders=[just_made])
    assert not find_shortages(gang(4), [quota(hard=8, used=2)], holders=[half_made])
    assert find_shortages(gang(5), [quota(hard=8, used=2)], holders=[half_made])


def test_a_smaller_run_behind_does_not_take_what_the_first_waits_for() -> None:
    free = [quota(hard=8, used=4)]
    [short] = find_shortages(gang(1), free, ahead=[gang(8)])
    assert short.fits_now


def test_a_run_that_uses_other_things_does_not_wait_for_the_first() -> None:
    free = [quota(hard=8, used=4, **{"requests.cpu": ("10", "0")})]
    on_cpus = Gang({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, num_pods=2)
    assert find_shortages(on_cpus, free, ahead=[gang(8)]) == []
    greedy = Gang({"containers": [{"resources": {"requests": {"cpu": "4"}}}]}, num_pods=2)
    assert find_shortages(greedy, free, ahead=[gang(8)]), "the first one's CPUs are kept for it"


def test_a_run_that_no_empty_quota_could_hold_blocks_nobody() -> None:
    assert find_ahead(ticket("small", gang(1), created="2026-01-02"), [ticket("huge", gang(9))], [quota(hard=8)]) == []
    assert find_shortages(gang(9), [quota(hard=8)])[0].is_hopeless


def test_pods_that_a_job_can_never_make_are_not_waited_for() -> None:
    assert find_shortages(gang(8), [quota(hard=8)], holders=[gang(9)]) == []


def test_pods_that_end_give_their_place_to_the_attempt_that_follows() -> None:
    goes_on = gang(4, num_charged_pods=4)
    assert not find_shortages(gang(4), [quota(hard=8, used=4)], ahead=[goes_on])
    assert find_shortages(gang(4), [quota(hard=8, used=4)], ahead=[gang(4)])


def ticket(
    key: str,
    its_gang: Gang | None = None,
    *,
    priority: int = 0,
    created: str = "2026-01-01",
    is_admitted: bool = False,
) -> Ticket:
    return Ticket(key, is_admitted, priority, created, its_gang or gang(1))


def test_order_is_by_what_has_started_then_priority_then_age() -> None:
    last = ticket("last", created="2026-01-02")
    others = [
        ticket("older"),
        ticket("urgent", priority=10, created="2026-01-03"),
        ticket("goes-on", is_admitted=True, created="2026-01-04"),
        ticket("younger", created="2026-01-05"),
    ]
    assert [each.key for each in find_ahead(last, others, [])] == ["goes-on", "urgent", "older"]


tickets = st.builds(
    ticket,
    st.uuids().map(str),
    st.builds(gang, st.integers(1, 4), st.integers(1, 8)),
    priority=st.sampled_from([0, 10]),
    created=st.integers(10, 59).map(lambda second: f"2026-05-04T12:00:{second}Z"),
)


@given(waiting=st.lists(tickets, min_size=1, max_size=8), asked=st.permutations(range(8)), hard=st.integers(1, 40))
def test_in_whatever_order_runs_ask_those_start_that_fit_one_after_the_other_in_the_order_of_the_queue(
    waiting: list[Ticket], asked: Sequence[int], hard: int
) -> None:
    quotas, queue, holders = [quota(hard)], list(waiting), []
    for _ in waiting:
        for each in (waiting[place] for place in asked if place < len(waiting)):
            if each not in queue:
                continue
            ahead = [other.gang for other in find_ahead(each, queue, quotas)]
            if not find_shortages(each.gang, quotas, holders, ahead):
                queue.remove(each)
                holders.append(each.gang)
    started, taken = [], 0
    for each in sorted(waiting, key=lambda each: each.order):
        needed = int(each.gang.count(quotas[0])[GPU])
        if is_hopeless(each.gang, quotas):
            continue
        taken += needed
        if taken > hard:
            break
        started.append(each.gang)
    assert sorted(map(repr, holders)) == sorted(map(repr, started))
