"""Which pod is asked how far an attempt has come."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.cluster.progress import find_rank_0


def build_pod(attempt: int, index: int, *, phase: str = "Running", ip: str | None = "10.0.0.1") -> dict[str, Any]:
    labels = {
        "runyard.dev/role": "train",
        "runyard.dev/attempt": str(attempt),
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    return {
        "metadata": {"name": f"a{attempt}-{index}", "labels": labels},
        "status": {"phase": phase} | ({"podIP": ip} if ip else {}),
    }


@pytest.mark.parametrize(
    ("pods", "want"),
    [
        ([build_pod(1, 1), build_pod(1, 0)], "a1-0"),
        ([build_pod(1, 0), build_pod(2, 0), build_pod(2, 1)], "a2-0"),
        ([build_pod(9, 0), build_pod(10, 0)], "a10-0"),
        ([build_pod(1, 0), build_pod(2, 0, phase="Pending", ip=None)], None),
        ([build_pod(1, 0, phase="Failed")], None),
        ([], None),
    ],
)
def test_progress_is_asked_of_the_running_rank_0_of_the_newest_attempt(
    pods: list[dict[str, Any]], want: str | None
) -> None:
    found = find_rank_0(pods)
    assert (found and found["metadata"]["name"]) == want
