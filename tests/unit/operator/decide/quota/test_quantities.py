"""Amounts of resources: as Kubernetes writes them, as people do, and as a quota counts them for a pod."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from runyard.decide.quota.quantities import count_pod, format_quantity, is_charged, parse_quantity

from tests.builders import NOW, being_deleted, make_pod_spec

GPU = "requests.nvidia.com/gpu"


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
    assert count_pod(make_pod_spec(gpus=4)) == {
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
