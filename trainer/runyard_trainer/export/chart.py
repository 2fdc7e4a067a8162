"""The training curve as an inline SVG whose colours are the page's own: right in light, in dark and in print."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from runyard_trainer.contract.times import parse_time


@dataclass(frozen=True)
class LossPoints:
    """Held-out losses as points of (step, loss); step 0 is before training."""

    domain: Sequence[tuple[int, float]] = ()
    general: Sequence[tuple[int, float]] = ()
    exported_step: int | None = None


_CSS_COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--quiet)",
    "#030303": "var(--accent)",
    "#040404": "var(--faint)",
    "#050505": "var(--second)",
}
"""The colours that matplotlib draws in, and the page's own that replace them."""
_INK, _QUIET, _ACCENT, _FAINT, _SECOND = _CSS_COLOURS

_NO_POINTS = LossPoints()

PAUSE_STEPS = 50
"""A time between rows as long as this many steps is a pause between two attempts."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "runyard",
    "font.size": 12,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """The columns of metrics.csv that are drawn, of one length."""

    steps: Sequence[float]
    losses: Sequence[float]
    learning_rates: Sequence[float]
    """Empty where there is no such column."""
    times: Sequence[float]
    """When each step ended, seconds; empty where there is no such column."""

    @property
    def training_s(self) -> float | None:
        """Time in training: the sum of the steps' times, without the pauses between attempts. None for fewer than 3
        steps.
        """
        if len(self.times) < 3:
            return None
        steps_s = np.diff(self.times)
        typical_s = float(np.median(steps_s))
        return float(steps_s[steps_s < PAUSE_STEPS * typical_s].sum()) + typical_s


def read_curve(metrics_csv: str) -> Curve:
    """Read the curve of metrics.csv; rows without a finite loss are passed over."""
    rows = [row for row in csv.DictReader(io.StringIO(metrics_csv)) if math.isfinite(float(row["loss"] or "nan"))]
    return Curve(
        steps=[float(row["step"]) for row in rows],
        losses=[float(row["loss"]) for row in rows],
        learning_rates=[float(cell) for cell in _column(rows, "learning_rate")],
        times=[parse_time(cell).timestamp() for cell in _column(rows, "time")],
    )


def _column(rows: list[dict[str, str]], name: str) -> list[str]:
    cells = [row.get(name, "") for row in rows]
    return cells if all(cells) else []


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Return the moving average over an odd window; at the ends it is over the half that is there."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    end = np.minimum(places + window // 2 + 1, len(values))
    averages: list[float] = ((sums[end] - sums[first]) / (end - first)).tolist()
    return averages


def draw_curve(curve: Curve, held_out: LossPoints = _NO_POINTS, unit: str = "nats per token") -> str:
    """Draw the loss over steps, as measured and smoothed, above the learning rate; empty text for fewer than two
    points.

    Args:
        curve: the training loss.
        held_out: losses on held-out data beside it.
        unit: of the loss.
    """
    if len(curve.steps) < 2:
        return ""
    heights = [3, 1] if curve.learning_rates else [1]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6 if curve.learning_rates else 3.4), layout="constrained")
        panels: Any = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        _draw_loss(panels[0], curve, unit)
        _draw_held_out(panels[0], held_out)
        panels[0].legend(loc="upper right")
        if curve.learning_rates:
            _draw_learning_rate(panels[1], curve)
        panels[-1].set_xlabel("step")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue())


def _draw_loss(panel: Any, curve: Curve, unit: str) -> None:
    window = max(1, len(curve.losses) // 25) | 1
    panel.plot(curve.steps, curve.losses, color=_ACCENT, alpha=0.3, linewidth=1, label="each step")
    panel.plot(
        curve.steps, smooth(curve.losses, window), color=_ACCENT, linewidth=2.2, label=f"average of {window} steps"
    )
    panel.set_ylabel(f"loss, {unit}")


def _draw_held_out(panel: Any, held_out: LossPoints) -> None:
    """Draw held-out losses as dots joined by lines; of more than two dots, the exported model's has a ring."""
    for name, colour, points in (("domain", _INK, held_out.domain), ("general", _SECOND, held_out.general)):
        if not points:
            continue
        steps, losses = zip(*points, strict=True)
        panel.plot(steps, losses, color=colour, marker="o", markersize=4, linewidth=1.2, label=f"held-out {name}")
        exported = [(step, loss) for step, loss in points if step == held_out.exported_step]
        if len(points) > 2 and exported:
            panel.plot(*exported[0], marker="o", markersize=10, fillstyle="none", color=colour)


def _draw_learning_rate(panel: Any, curve: Curve) -> None:
    panel.plot(curve.steps, curve.learning_rates, color=_SECOND, linewidth=1.8)
    panel.set_ylabel("learning rate")
    panel.set_ylim(bottom=0)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))


def _for_page(svg: str) -> str:
    """Return the svg element alone, coloured by the page and as wide as its place."""
    svg = svg[svg.index("<svg") :]
    for stand_in, colour in _CSS_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", '<svg role="img" aria-label="Training loss and learning rate over steps" ', 1)
