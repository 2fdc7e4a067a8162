"""The report page (report.html) and the model card (README.md): what the run did, in words, a curve and tables.

Both are jinja2 templates over one `RunSummary`. The page is a single file: styles and the chart are inside, nothing is
loaded from elsewhere, nothing runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

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
    precision: str
    """Of the computation: bf16 or fp32."""
    metrics_csv: str
    """The whole run's rows, header first; step, loss, learning_rate and time are among the columns."""
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

    @property
    def mode(self) -> str:
        """What this run is called, as words."""
        return "Pre-training" if self.recipe.mode == "PreTraining" else "Continued pre-training"

    def gpu_hours(self, training_s: float | None) -> float | None:
        """GPUs times the time in training; None on CPU or where the time is not known."""
        return None if self.accelerator is None or training_s is None else self.processes * training_s / 3600


@dataclass(frozen=True)
class Comparison:
    """A row of the before/after table. Lower is better in all of them."""

    held_out: str
    """Which text: Domain or General."""
    measure: str
    before: float | None
    after: float

    @property
    def change(self) -> float | None:
        """After minus before."""
        return None if self.before is None else self.after - self.before

    @property
    def word(self) -> str:
        """What the change means, so that colour is not all that tells it."""
        if self.change is None or f"{abs(self.change):.4f}" == "0.0000":
            return "same"
        return "better" if self.change < 0 else "worse"


def compare(before: Losses | None, after: Losses) -> list[Comparison]:
    """The before/after table: loss, perplexity and bits per byte on each set that was measured."""
    return [row for name in ("domain", "general") for row in _compare_set(name, before or Losses(), after)]


def _compare_set(name: str, before: Losses, after: Losses) -> Iterator[Comparison]:
    loss, bits = f"{name}_loss", f"{name}_bits_per_byte"
    if getattr(after, loss) is None:
        return
    title = name.capitalize()
    yield Comparison(title, "loss, nats per token", getattr(before, loss), getattr(after, loss))
    yield Comparison(title, "perplexity", _perplexity(getattr(before, loss)), _perplexity(getattr(after, loss)) or 0.0)
    yield Comparison(title, "bits per byte", getattr(before, bits), getattr(after, bits))


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))


def verdict(before: Losses | None, after: Losses) -> str:
    """The run in one sentence."""
    was = before or Losses()
    sets = (("domain", was.domain_loss, after.domain_loss), ("general", was.general_loss, after.general_loss))
    told = [_tell(name, then, now) for name, then, now in sets if now is not None]
    if not told:
        return "Nothing was held out, so nothing was measured."
    sentence = ", and ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _tell(name: str, before: float | None, after: float) -> str:
    if before is None:
        return f"the {name} loss is {after:.2f} nats per token"
    if f"{abs(after - before):.2f}" == "0.00":
        return f"the {name} loss stayed at {after:.2f} nats per token"
    verb = "fell" if after < before else "rose"
    return f"the {name} loss {verb} by {abs(after - before):.2f} to {after:.2f} nats per token"


# --------------------------------------------------------------------------------------------------------------- pages


def render_report(summary: RunSummary) -> str:
    """The page, as HTML."""
    # deferred: matplotlib takes seconds to load, which no rank should wait for before it trains
    from runyard_trainer.chart import draw_curve, read_curve

    curve = read_curve(summary.trained.metrics_csv)
    return _render(
        "report.html.j2",
        summary,
        chart=Markup(draw_curve(curve)),  # noqa: S704 drawn by us from numbers alone
        training_s=curve.training_s,
        gpu_hours=summary.gpu_hours(curve.training_s),
    )


def render_card(summary: RunSummary) -> str:
    """The model card, as Markdown with YAML front matter."""
    return _render("README.md.j2", summary)


def _render(template: str, summary: RunSummary, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("runyard_trainer"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    trained = summary.trained
    return environment.get_template(template).render(
        run=summary,
        trained=trained,
        recipe=summary.recipe,
        comparisons=compare(trained.before, trained.after),
        verdict=verdict(trained.before, trained.after),
        streams={name: info for name, info in summary.streams.items() if info.documents},
        **values,
    )


def format_count(count: float) -> str:
    """12,345 as it is; from a million on, 3 digits and a word."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,.0f}"


def format_time(seconds: float) -> str:
    """The two largest units: 2 d 3 h, 1 h 32 min, 4 min 5 s, 12 s."""
    units = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
    left = round(seconds)
    parts: list[str] = []
    for size, name in units:
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def format_number(value: float | None, sign: bool = False) -> str:
    """Four significant digits at least; a dash for None, and a true minus sign."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 100 else 1
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


_FILTERS: dict[str, Callable[..., str]] = {
    "count": format_count,
    "time": format_time,
    "number": format_number,
    "pretty_json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
}
