"""Admission against ResourceQuotas: arithmetic, order and words, by example; and by property that no gang is split."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runyard.quota import Claim, amounts_of_pod, format_amount, judge, parse_quantity
from runyard.world import Manifest

GPU = "requests.nvidia.com/gpu"


def make_quota(name: str = "team-a", used: dict[str, str] | None = None, **spec: Any) -> Manifest:
    hard = spec.pop("hard", {GPU: "32"})
    return {
        "metadata": {"name": name},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or {}},
    }


def make_claim(name: str = "me", gpus: int = 8, pods: int = 2, **fields: Any) -> Claim:
    amounts = {GPU: Decimal(gpus), "requests.cpu": Decimal(4), "pods": Decimal(1)}
    given = {"priority": 0, "created": "2026-05-04T12:00:00Z", "is_admitted": False, "missing_pods": pods}
    return Claim(name=name, per_pod=amounts, per_job={"count/jobs.batch": Decimal(1)}, **(given | fields))


@pytest.mark.parametrize(
    ("text", "want"),
    [("500m", "0.5"), ("4Gi", "4294967296"), ("1k", "1000"), ("1e3", "1000"), ("0.5", "0.5"), ("16", "16"), (7, "7")],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, want: str) -> None:
    assert parse_quantity(text) == Decimal(want)


def test_what_is_no_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="not a quantity: 4 apples"):
        parse_quantity("4 apples")


@pytest.mark.parametrize(("amount", "want"), [("16", "16"), ("1.5", "1.5"), ("68719476736", "64Gi"), ("0", "0")])
def test_amounts_are_told_as_people_write_them(amount: str, want: str) -> None:
    assert format_amount(Decimal(amount)) == want


def test_a_pod_takes_what_all_its_containers_ask_for() -> None:
    containers = [
        {"resources": {"requests": {"cpu": "4", "nvidia.com/gpu": "8"}, "limits": {"cpu": "4"}}},
        {"resources": {"requests": {"cpu": "500m"}}},
        {},
    ]
    assert amounts_of_pod({"containers": containers}) == {
        "pods": 1,
        "requests.cpu": Decimal("4.5"),
        GPU: 8,
        "limits.cpu": 4,
    }


def test_a_run_starts_where_all_of_its_pods_fit() -> None:
    assert judge(make_claim(), [], [make_quota(used={GPU: "16"})]).fits
    assert judge(make_claim(), [], []).fits


def test_one_that_does_not_fit_is_told_what_it_needs_and_how_much_is_free() -> None:
    verdict = judge(make_claim(), [], [make_quota(used={GPU: "24"})])
    assert (verdict.fits, verdict.position) == (False, 1)
    assert verdict.message == "needs 16 nvidia.com/gpu, team-a has 8 of 32 free"


EVERY_NAME = {
    "requests.cpu": ("7", "needs 8 cpu, team-a has 7 of 7 free"),
    "cpu": ("7", "needs 8 cpu, team-a has 7 of 7 free"),
    "pods": ("1", "needs 2 pods, team-a has 1 of 1 free"),
    "count/pods": ("1", "needs 2 count/pods, team-a has 1 of 1 free"),
    "count/jobs.batch": ("0", "needs 1 count/jobs.batch, team-a has 0 of 0 free"),
}


@pytest.mark.parametrize("name", EVERY_NAME)
def test_every_resource_that_a_quota_names_counts(name: str) -> None:
    hard, message = EVERY_NAME[name]
    assert judge(make_claim(), [], [make_quota(hard={name: hard})]).message == message


def test_a_resource_that_no_pod_asks_for_does_not() -> None:
    assert judge(make_claim(), [], [make_quota(hard={"requests.storage": "0"})]).fits


def test_pods_that_an_admitted_run_has_not_made_yet_are_reserved_for_it() -> None:
    admitted = make_claim("other", pods=1, is_admitted=True)
    assert judge(make_claim(), [admitted], [make_quota(used={GPU: "8"})]).fits
    assert not judge(make_claim(), [admitted], [make_quota(used={GPU: "16"})]).fits


def test_smaller_runs_behind_do_not_starve_the_first_in_the_queue() -> None:
    large = make_claim("large", pods=4, created="2026-05-04T11:00:00Z")
    small = make_claim("small", pods=1)
    quota = make_quota(used={GPU: "8"})
    assert judge(large, [small], [quota]).message == "needs 32 nvidia.com/gpu, team-a has 24 of 32 free"
    verdict = judge(small, [large], [quota])
    assert (verdict.fits, verdict.position) == (False, 2)
    assert verdict.message == "needs 8 nvidia.com/gpu, team-a has 0 of 32 free; 1 run ahead"


def test_a_run_that_needs_nothing_of_what_those_ahead_wait_for_is_not_held_up() -> None:
    large = make_claim("large", pods=4, created="2026-05-04T11:00:00Z")
    on_cpus = replace(make_claim("small", pods=1), per_pod={"pods": Decimal(1)})
    assert judge(on_cpus, [large], [make_quota(used={GPU: "8"})]).fits


def test_a_higher_priority_goes_before_a_greater_age() -> None:
    old = make_claim("old", pods=4, created="2026-05-04T11:00:00Z")
    urgent = make_claim("urgent", pods=1, priority=1000)
    quota = make_quota(used={GPU: "8"})
    assert judge(urgent, [old], [quota]).fits
    assert "1 run ahead" in judge(old, [urgent], [quota]).message


def test_a_run_between_two_attempts_does_not_queue_again() -> None:
    waiting = make_claim("waiting", created="2026-05-04T11:00:00Z")
    verdict = judge(make_claim(is_admitted=True), [waiting], [make_quota(used={GPU: "16"})])
    assert (verdict.fits, verdict.position) == (True, 0)


SCOPES = {
    "for pods without a deadline": ({"scopes": ["NotTerminating"]}, True),
    "for pods with a deadline": ({"scopes": ["Terminating"]}, False),
    "for pods without requests": ({"scopes": ["BestEffort"]}, False),
    "for pods with requests": ({"scopes": ["NotBestEffort"]}, True),
    "for a class that it has": ({"operator": "In", "values": ["research"]}, True),
    "for a class that it has not": ({"operator": "In", "values": ["production"]}, False),
    "for all but a class that it has not": ({"operator": "NotIn", "values": ["production"]}, True),
    "for pods of any class": ({"operator": "Exists"}, True),
    "for pods of no class": ({"operator": "DoesNotExist"}, False),
    "across namespaces": ({"scopes": ["CrossNamespacePodAffinity"]}, False),
}


@pytest.mark.parametrize("case", SCOPES)
def test_a_quota_counts_the_run_or_does_not(case: str) -> None:
    scope, counts = SCOPES[case]
    if "operator" in scope:
        scope = {"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", **scope}]}}
    claim = make_claim(priority_class="research")
    assert judge(claim, [], [make_quota(hard={GPU: "0"}, **scope)]).fits is not counts


claims = st.builds(
    make_claim,
    name=st.uuids().map(str),
    gpus=st.integers(0, 8),
    pods=st.integers(1, 4),
    priority=st.sampled_from([0, 10]),
    created=st.integers(10, 59).map(lambda second: f"2026-05-04T12:00:{second}Z"),
)


@given(waiting=st.lists(claims, min_size=1, max_size=8), hard=st.integers(1, 40))
def test_however_often_runs_ask_all_that_fit_start_whole_and_the_first_in_the_queue_is_never_overtaken_on_gpus(
    waiting: list[Claim], hard: int
) -> None:
    quota, claims_now = make_quota(hard={GPU: str(hard)}), list(waiting)
    for place in range(len(claims_now)):
        others = [other for number, other in enumerate(claims_now) if number != place]
        if judge(claims_now[place], others, [quota]).fits:
            claims_now[place] = replace(claims_now[place], is_admitted=True)
    taken = sum(claim.amounts.get(GPU, Decimal(0)) for claim in claims_now if claim.is_admitted)
    assert taken <= hard
    queued = [claim for claim in claims_now if not claim.is_admitted]
    overtakers = [
        claim
        for claim in claims_now
        for first in queued
        if claim.is_admitted and first.rank < claim.rank and claim.per_pod[GPU] and first.per_pod[GPU]
    ]
    for overtaker in overtakers:  # it was asked while all before it, itself included, had room
        before = [claim for claim in claims_now if claim.rank <= overtaker.rank]
        assert sum(claim.amounts[GPU] for claim in before) <= hard
