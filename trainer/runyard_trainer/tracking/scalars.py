"""Read metrics.csv and the measured losses as named values by step, for dashboards."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tensorboardX import SummaryWriter

from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.times import parse_time
from runyard_trainer.training.best_model import Candidate

_TAGS = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
}
"""Name of a value, by column of metrics.csv."""


class Scalar(NamedTuple):
    """A value of a name at a step, and the time of that step."""

    tag: str
    value: float
    step: int
    time_s: float


def read_scalars(metrics_csv: str, before: Losses | None, measured: Iterable[Candidate]) -> Iterator[Scalar]:
    """Yield the values of all steps, then those of all measurements.

    Args:
        metrics_csv: rows of the whole run.
        before: losses of the model before the first step.
        measured: the models measured since, in order of step.
    """
    rows = list(csv.DictReader(io.StringIO(metrics_csv)))
    times = {int(row["step"]): parse_time(row["time"]).timestamp() for row in rows}
    began = min(times.values(), default=0.0)
    points = [(0, before)] if before is not None else []
    points += [(each.step, each.losses) for each in measured]
    yield from _read_rows(rows, times)
    yield from _read_losses(points, times, began)


def _read_rows(rows: list[dict[str, str]], times: dict[int, float]) -> Iterator[Scalar]:
    for row in rows:
        step = int(row["step"])
        yield from (Scalar(tag, float(row[column]), step, times[step]) for column, tag in _TAGS.items() if row[column])


def _read_losses(points: list[tuple[int, Losses]], times: dict[int, float], began: float) -> Iterator[Scalar]:
    for step, losses in points:
        found = losses.model_dump(by_alias=True, exclude_none=True, exclude={"tasks"})
        values = {name: value for name, value in found.items() if name != "metrics"} | found.get("metrics", {})
        yield from (Scalar(f"held_out/{name}", value, step, times.get(step, began)) for name, value in values.items())


def build_events(metrics_csv: str, before: Losses | None, measured: Iterable[Candidate]) -> bytes:
    """Build the content of TensorBoard's event file from what `read_scalars` yields."""
    with TemporaryDirectory(prefix="runyard-events-") as folder:
        with SummaryWriter(folder) as writer:
            for scalar in read_scalars(metrics_csv, before, measured):
                writer.add_scalar(scalar.tag, scalar.value, scalar.step, scalar.time_s)
        (path,) = Path(folder).iterdir()
        return path.read_bytes()
