"""The arithmetic of quotas, and the order of those that wait."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from runyard.quota import (
    Gang,
    Quota,
    Ticket,
    count_pod,
    find_ahead,
    find_shortages,
    format_quantity,
    is_charged,
    parse_quantity,
    read_quota,
)
from runyard.world import Manifest

from tests.builders import NOW, being_deleted

GPU = "requests.nvidia.com/gpu"


def pod_spec(gpus: int = 1, **fields: Any) -> dict[str, Any]:
    amounts = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
    return {"containers": [{"name": "trainer", "resources": {"requests": amounts, "limits": amounts}}], **fields}


def gang(num_pods: int, gpus: int = 1, **fields: Any) -> Gang:
    return Gang(pod_spec(gpus), num_pods, **fields)


def quota(hard: int = 8, used: int = 0, **more: tuple[str, str]) -> Quota:
    return read_quota(
        {
            "metadata": {"name": "gpus"},
            "spec": {"hard": {GPU: str(hard)} | {name: hard for name, (hard, _) in more.items()}},
            "status": {"used": {GPU: str(used)} | {name: used for name, (_, used) in more.items()}},
        }
    )


@pytest.mark.parametrize(
    ("text", "want"),
    [("4", "4"), ("500m", "0.5"), ("1Gi", "1073741824"), ("1.5k", "1500"), ("2e3", "2000"), ("1E", "1e18"), ("0", "0")],
)
def test_amounts_are_read_as_kubernetes_writes_them(text: str, want: str) -> None:
    assert parse_quantity(text) == Decimal(want)


def test_what_is_no_amount_is_refused() -> None:
    with pytest.raises(ValueError, match="'4 GPUs' is no quantity"):
        parse_quantity("4 GPUs")


@pytest.mark.parametrize(
    ("amount", "resource", "want"),
    [("16", "nvidia.com/gpu", "16"), ("100", "cpu", "100"), ("0.5", "cpu", "0.5"), (str(3 * 2**29), "memory", "1.5Gi")],
)
def test_amounts_are_shown_as_people_write_them(amount: str, resource: str, want: str) -> None:
    assert format_quantity(Decimal(amount), resource) == want


def test_a_pod_is_counted_under_every_name_that_a_quota_has_for_it() -> None:
    assert count_pod(pod_spec(gpus=4)) == {
        "pods": 1,
        "count/pods": 1,
        "cpu": Decimal("0.5"),
        "requests.cpu": Decimal("0.5"),
        "limits.cpu": Decimal("0.5"),
        "memory": 2**30,
        "requests.memory": 2**30,
        "limits.memory": 2**30,
        GPU: 4,
        "limits.nvidia.com/gpu": 4,
    }


def test_containers_that_run_before_count_if_they_are_larger_and_sidecars_are_added() -> None:
    def container(cpu: str, **fields: str) -> dict[str, Any]:
        return {"name": "c", "resources": {"limits": {"cpu": cpu}}, **fields}

    spec = {"containers": [container("1"), container("1")], "initContainers": [container("5")]}
    assert count_pod(spec)["requests.cpu"] == 5
    spec["initContainers"] = [container("3", restartPolicy="Always"), container("1")]
    assert count_pod(spec)["requests.cpu"] == 5


@pytest.mark.parametrize(
    ("phase", "metadata", "want"),
    [
        ("Running", {}, True),
        ("Succeeded", {}, False),
        ("Failed", {}, False),
        ("Running", being_deleted(-10, grace_s=30), True),
        ("Running", being_deleted(-100, grace_s=30), False),
    ],
    ids=["running", "succeeded", "failed", "ending", "overdue on a dead node"],
)
def test_a_pod_is_charged_as_the_api_server_does_it(phase: str, metadata: dict[str, Any], want: bool) -> None:
    assert is_charged({"metadata": metadata, "status": {"phase": phase}}, NOW) is want


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
    assert the_quota.covers(pod_spec(), priority_class) is want
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
    assert find_shortages(gang(1), [quota(hard=8)], ahead=[gang(9)]) == []
    assert find_shortages(gang(9), [quota(hard=8)])[0].is_hopeless


def test_pods_that_end_give_their_place_to_the_attempt_that_follows() -> None:
    goes_on = gang(4, num_charged_pods=4)
    assert not find_shortages(gang(4), [quota(hard=8, used=4)], ahead=[goes_on])
    assert find_shortages(gang(4), [quota(hard=8, used=4)], ahead=[gang(4)])


def test_order_is_by_what_has_started_then_priority_then_age() -> None:
    def ticket(key: str, *, priority: int = 0, created: str = "2026-01-01", is_admitted: bool = False) -> Ticket:
        return Ticket(key, is_admitted, priority, created, gang(1))

    last = ticket("last", created="2026-01-02")
    others = [
        ticket("older"),
        ticket("urgent", priority=10, created="2026-01-03"),
        ticket("goes-on", is_admitted=True, created="2026-01-04"),
        ticket("younger", created="2026-01-05"),
    ]
    assert [each.key for each in find_ahead(last, others)] == ["goes-on", "urgent", "older"]
