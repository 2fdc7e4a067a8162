"""The report page (report.html) and the model card (README.md): what the run did, in words, a curve and tables.

Both are jinja2 templates over one `RunSummary`. The page is a single file: styles and the chart are inside, nothing is
loaded from elsewhere, nothing runs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from runyard_trainer.contract import Recipe
from runyard_trainer.outcome import Losses
from runyard_trainer.samples import Sample
from runyard_trainer.shards import StreamInfo


@dataclass(frozen=True)
class TrainedRun:
    """What the loop knows of the run when its last step is done."""

    before: Losses | None
    """None where the recipe does not measure before."""
    after: Losses
    steps: int
    tokens: int
    """Trained on, over all attempts."""
    train_s: float | None
    """Time spent in training steps, over all attempts; None where it is not known."""
    precision: str
    """Of the computation: bf16 or fp32."""
    metrics_csv: str
    """The whole run's rows, header first; step, loss and learning_rate are among the columns."""
    resolved: Mapping[str, str]
    """Each value that was automatic."""


@dataclass(frozen=True)
class RunSummary:
    """All that the report and the model card tell."""

    name: str
    recipe: Recipe
    trained: TrainedRun
    attempts: int
    processes: int
    accelerator: str | None
    """What the GPUs are called; None on CPU."""
    num_parameters: int
    streams: Mapping[str, StreamInfo]
    samples: list[Sample]
    lineage: dict[str, Any]
    model_uri: str


def render_report(summary: RunSummary) -> str:
    """The page, as HTML."""
    return ""


def render_card(summary: RunSummary) -> str:
    """The model card, as Markdown with YAML front matter."""
    return ""
