"""`runyard quota`: what it makes of runs and quotas, and what it prints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import GpuSeconds, QueuePlace, TrainingRunStatus
from runyard.cli.quota import Waiting, print_usage, read_budget, summarize
from runyard.decide.values import Run

from tests.builders import make_run


def run(name: str, namespace: str = "team-a", **status: Any) -> Run:
    return replace(make_run(TrainingRunStatus(**status)), name=name, namespace=namespace)


RUNS = [
    run("small", "team-b", attempt=1, ended_attempt=1, gpus=1, gpu_seconds=GpuSeconds(allocated=360, productive=300)),
    run("second", gpus=16, queue=QueuePlace(position=1, message="needs 16; 1 run ahead")),
    run("first", gpus=16, queue=QueuePlace(position=0, message="needs 16")),
    run("large", attempt=2, ended_attempt=1, gpus=8, gpu_seconds=GpuSeconds(allocated=7200, productive=5400, lost=720)),
]
QUOTA = {
    "metadata": {"name": "gpus", "namespace": "team-a"},
    "spec": {"hard": {"requests.nvidia.com/gpu": "16", "pods": "99"}},
    "status": {"used": {"requests.nvidia.com/gpu": "8", "pods": "2"}},
}


def test_namespaces_are_summed_and_who_waits_stands_in_the_order_of_the_queue() -> None:
    first, second = summarize(RUNS, [QUOTA])
    assert (first.namespace, first.runs, first.gpus) == ("team-a", 3, 8)
    assert first.gpu_seconds == {"allocated": 7200, "productive": 5400, "lost": 720}
    assert first.quotas == ["8 of 16 nvidia.com/gpu (gpus)"]
    assert first.waiting == [Waiting("first", 0, "needs 16"), Waiting("second", 1, "needs 16; 1 run ahead")]
    assert (second.namespace, second.gpus, second.gpu_seconds["allocated"], second.quotas) == ("team-b", 0, 360, [])


def test_it_is_printed_as_a_table_and_a_line_for_each_that_waits(capsys: pytest.CaptureFixture[str]) -> None:
    print_usage(summarize(RUNS, [QUOTA]), [])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAMESPACE", "RUNS", "GPUS", "GPU-HOURS", "PRODUCTIVE", "LOST", "QUOTA", "USED"]
    assert lines[1].split() == ["team-a", "3", "8", "2.00", "75%", "10%", "8", "of", "16", "nvidia.com/gpu", "(gpus)"]
    assert lines[2].split() == ["team-b", "1", "0", "0.10", "83%", "0%"]
    assert lines[3:] == ["team-a/first waits: needs 16", "team-a/second waits: needs 16; 1 run ahead"]


def test_nothing_to_show_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_usage([], [])
    assert capsys.readouterr().out == "no TrainingRuns\n"


def test_budgets_are_printed_below_with_who_has_used_them(capsys: pytest.CaptureFixture[str]) -> None:
    status = {"used": "12.50", "remaining": "87.50", "namespaces": [{"name": "team-a", "used": "12.50"}]}
    budgets = [
        {"metadata": {"name": "ml"}, "spec": {"gpuHours": 100, "action": "Block"}, "status": status},
        {"metadata": {"name": "new"}, "spec": {"gpuHours": 0.5, "windowDays": 1}},
    ]
    print_usage([], list(map(read_budget, budgets)))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ["BUDGET", "USED", "HOURS", "LEFT", "DAYS", "ACTION", "BY"]
    assert lines[3] == ["ml", "12.50", "100", "87.50", "30", "Block", "team-a", "12.50"]
    assert lines[4] == ["new", "?", "0.5", "?", "1", "Warn"]
