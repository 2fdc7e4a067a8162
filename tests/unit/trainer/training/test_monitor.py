"""What is seen of a run: progress, metrics and how a stop is noted."""

from __future__ import annotations

import csv
import io
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from runyard_trainer.contract.reports import CommittedCheckpoint, Progress
from runyard_trainer.training.monitor import METRICS_COLUMNS, Monitor, StopRequest, format_progress

CHECKPOINT = CommittedCheckpoint(uri="s3://b/checkpoints/step-00000002-e1", step=2, time="2026-01-01T00:00:00Z")


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_steps(monitor: Monitor, clock: Clock, steps: range, step_s: float = 2.0) -> None:
    for step in steps:
        clock.now_s += step_s
        monitor.record_step(step, loss=5.0 - step, tokens=100 * step, learning_rate=0.1, grad_norm=1.5)


def test_progress_tells_speed_and_time_left_from_the_last_steps(clock: Clock) -> None:
    monitor = Monitor(attempt=3, total_steps=10, now=clock)
    monitor.set_stage("training")
    make_steps(monitor, clock, range(1, 5))
    want = Progress(
        stage="training",
        attempt=3,
        step=4,
        total_steps=10,
        tokens=400,
        tokens_per_second=50.0,
        loss=1.0,
        eta_seconds=12,
        training_seconds=8.0,
        last_heartbeat_time="1970-01-01T00:00:08.000Z",
    )
    assert monitor.progress == want


def test_time_on_steps_is_told_apart_from_what_a_commit_has_of_it(clock: Clock) -> None:
    monitor = Monitor(attempt=2, total_steps=100, now=clock)
    monitor.set_checkpoint(CommittedCheckpoint(uri="u", step=10, time="t"))
    clock.now_s += 60
    monitor.set_stage("training")
    make_steps(monitor, clock, range(11, 16))
    assert (monitor.progress.training_seconds, monitor.progress.committed_seconds) == (10.0, 0.0)
    monitor.set_checkpoint(CommittedCheckpoint(uri="u", step=13, time="t"))
    assert monitor.progress.committed_seconds == 6.0
    clock.now_s += 60
    monitor.set_stage("training")
    make_steps(monitor, clock, range(16, 17))
    assert (monitor.progress.training_seconds, monitor.progress.committed_seconds) == (12.0, 6.0)
    monitor.set_checkpoint(CommittedCheckpoint(uri="u", step=16, time="t"))
    assert monitor.progress.committed_seconds == monitor.progress.training_seconds == 12.0


def test_the_first_step_after_a_start_says_nothing_of_speed(clock: Clock) -> None:
    monitor = Monitor(attempt=1, total_steps=10, now=clock)
    make_steps(monitor, clock, range(1, 2))
    assert (monitor.progress.tokens_per_second, monitor.progress.eta_seconds) == (None, None)


def test_speed_forgets_what_is_long_ago(clock: Clock) -> None:
    monitor = Monitor(attempt=1, total_steps=1000, now=clock)
    make_steps(monitor, clock, range(1, 10), step_s=100.0)
    make_steps(monitor, clock, range(10, 100), step_s=1.0)
    assert monitor.progress.tokens_per_second == pytest.approx(100.0)


def read_steps(monitor: Monitor) -> list[int]:
    rows = list(csv.DictReader(io.StringIO(monitor.metrics_csv())))
    assert all(tuple(row) == METRICS_COLUMNS for row in rows)
    return [int(row["step"]) for row in rows]


def test_metrics_hold_each_step_once_after_a_resume(clock: Clock) -> None:
    first = Monitor(attempt=1, total_steps=6, now=clock)
    make_steps(first, clock, range(1, 4))
    committed = first.state_dict()
    make_steps(first, clock, range(4, 6))  # lost with the attempt
    second = Monitor(attempt=2, total_steps=6, now=clock)
    second.load_state_dict(committed)
    assert (second.progress.step, second.progress.tokens) == (3, 300)
    make_steps(second, clock, range(4, 7))
    assert read_steps(second) == [1, 2, 3, 4, 5, 6]


def test_numbers_in_metrics_come_back_exactly(clock: Clock) -> None:
    monitor = Monitor(attempt=1, total_steps=1, now=clock)
    monitor.record_step(1, loss=0.1 + 0.2, tokens=7, learning_rate=1e-5 / 3, grad_norm=float("nan"))
    [row] = csv.DictReader(io.StringIO(monitor.metrics_csv()))
    assert (float(row["loss"]), float(row["learning_rate"]), row["grad_norm"]) == (0.1 + 0.2, 1e-5 / 3, "nan")


@pytest.fixture
def served(clock: Clock) -> Iterator[tuple[Monitor, str]]:
    monitor = Monitor(attempt=1, total_steps=10, now=clock)
    port = monitor.serve("127.0.0.1", port=0)
    yield monitor, f"http://127.0.0.1:{port}"
    monitor.close()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_progress_is_served_as_json(served: tuple[Monitor, str], clock: Clock) -> None:
    monitor, url = served
    monitor.set_resolved({"microBatch": "4"})
    monitor.set_checkpoint(CHECKPOINT)
    make_steps(monitor, clock, range(1, 4))
    got = Progress.model_validate_json(fetch(f"{url}/progress"))
    assert got == monitor.progress
    assert (got.step, got.checkpoint, got.resolved) == (3, CHECKPOINT, {"microBatch": "4"})


def test_a_loss_that_is_no_number_leaves_progress_readable(served: tuple[Monitor, str]) -> None:
    monitor, url = served
    monitor.record_step(1, loss=float("nan"), tokens=1, learning_rate=0.1, grad_norm=float("inf"))
    assert Progress.model_validate_json(fetch(f"{url}/progress")).loss is None


def test_metrics_are_served_as_prometheus_reads_them(served: tuple[Monitor, str], clock: Clock) -> None:
    monitor, url = served
    make_steps(monitor, clock, range(1, 4))
    lines = fetch(f"{url}/metrics").splitlines()
    assert {"runyard_trainer_step 3.0", "runyard_trainer_tokens 300.0", "runyard_trainer_loss 2.0"} < set(lines)


@pytest.mark.parametrize(("method", "path", "code"), [("GET", "/other", 404), ("POST", "/progress", 501)])
def test_nothing_else_is_served(served: tuple[Monitor, str], method: str, path: str, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(served[1] + path, method=method), timeout=10)
    error.value.close()
    assert error.value.code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_sets_the_stop_request(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = StopRequest()
        stop.install()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_a_line_for_people_tells_step_loss_speed_and_time_left(clock: Clock) -> None:
    monitor = Monitor(attempt=1, total_steps=10, now=clock)
    make_steps(monitor, clock, range(1, 4))
    assert format_progress(monitor.progress) == "step 3/10, loss 2.0000, 50 tokens/s, 14s left"


def test_what_is_unknown_is_left_out_of_the_line() -> None:
    assert format_progress(Progress(stage="starting", attempt=1, total_steps=5, last_heartbeat_time="")) == "step 0/5"
