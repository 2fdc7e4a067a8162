"""The scalars of a run as an event file that TensorBoard shows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from tensorboardX import SummaryWriter

from runyard_trainer.contract.reports import Losses
from runyard_trainer.scalars import read_scalars
from runyard_trainer.training.best_model import Candidate


def build_events(metrics_csv: str, before: Losses | None, measured: Iterable[Candidate]) -> bytes:
    """The content of the event file, of what `read_scalars` finds."""
    with TemporaryDirectory(prefix="runyard-events-") as folder:
        with SummaryWriter(folder) as writer:
            for scalar in read_scalars(metrics_csv, before, measured):
                writer.add_scalar(scalar.tag, scalar.value, scalar.step, scalar.time_s)
        (path,) = Path(folder).iterdir()
        return path.read_bytes()
