"""The event file, read by TensorBoard itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_trainer.contract.reports import Losses
from runyard_trainer.tracking.scalars import build_events
from runyard_trainer.training.best_model import Candidate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

METRICS = """step,tokens,loss,learning_rate,grad_norm,tokens_per_second,time
1,100,3.5,0.001,1.25,,2026-05-04T12:00:01.000Z
2,200,3.25,0.002,1.5,50.0,2026-05-04T12:00:03.000Z
"""


def test_tensorboard_shows_every_step_and_every_measurement(tmp_path: Path) -> None:
    measured = [Candidate(2, Losses(domain_loss=2.5, metrics={"accuracy": 0.75}))]
    (tmp_path / "events.out.tfevents.runyard").write_bytes(build_events(METRICS, Losses(domain_loss=4.0), measured))
    events = EventAccumulator(str(tmp_path))
    events.Reload()

    def read(tag: str) -> list[tuple[int, float]]:
        return [(scalar.step, scalar.value) for scalar in events.Scalars(tag)]

    assert read("train/loss") == [(1, 3.5), (2, 3.25)]
    assert read("train/tokens_per_second") == [(2, 50.0)]
    assert read("held_out/domainLoss") == [(0, 4.0), (2, 2.5)]
    assert read("held_out/accuracy") == [(2, 0.75)]
    assert [scalar.wall_time for scalar in events.Scalars("train/loss")] == [
        pytest.approx(1777896001.0),
        pytest.approx(1777896003.0),
    ]


def test_a_run_without_steps_has_events_too() -> None:
    assert build_events(METRICS.splitlines()[0] + "\n", None, [])
