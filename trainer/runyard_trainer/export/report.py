"""The report page (report.html) and the model card (README.md): what the run did, in words, a curve and tables.

Both are jinja2 templates over one `RunSummary`. The page is a single file: styles and the chart are inside, nothing is
loaded from elsewhere, nothing runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from runyard_trainer.contract.objectives import LANGUAGE_OBJECTIVES, Mode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Judgement, Losses
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import describe_left_out
from runyard_trainer.evaluation.judge.verdicts import Judged
from runyard_trainer.evaluation.tasks.items import FrozenTasks
from runyard_trainer.export.chart import HeldOut
from runyard_trainer.export.continuations import Sample
from runyard_trainer.export.wording import JUDGE_DEFINITION, WORDS, words_of_metric
from runyard_trainer.training.best_model import Candidate

_MODES: dict[Mode, str] = {
    "PreTraining": "Pre-training",
    "ContinuedPreTraining": "Continued pre-training",
    "FineTuning": "Fine-tuning",
}


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
    exported_step: int | None = None
    """The step that the exported model is of."""
    candidates: Sequence[Candidate] = ()
    """All that was measured, in order of step."""
    warning: str | None = None
    """What is not as the recipe asks."""
    tasks: FrozenTasks = field(default_factory=FrozenTasks)
    """What the model was asked."""
    tasks_sha256: str | None = None
    """Of the file that holds them."""
    prompts_sha256: str | None = None
    """Likewise of the prompts that were judged."""
    judged: Judged | None = None
    """What a judge has found; None where none was asked for."""
    tracking_url: str | None = None
    """The run's page on a tracking server."""


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
    num_trained: int
    """Of the parameters."""
    num_labels: int
    """Classes that the model names; 0 where it names none."""
    num_new_tokens: int
    """That were added to the model's own."""
    num_rows: int
    """Of the embeddings."""
    streams: Mapping[str, StreamInfo]
    samples: list[Sample]
    lineage: dict[str, Any]
    model_uri: str

    @property
    def mode(self) -> str:
        """What this run is called, as words."""
        return _MODES[self.recipe.mode]

    def gpu_hours(self, training_s: float | None) -> float | None:
        """GPUs times the time in training; None on CPU or where the time is not known."""
        return None if self.accelerator is None or training_s is None else self.processes * training_s / 3600


@dataclass(frozen=True)
class Comparison:
    """A row of the before/after table."""

    held_out: str
    """Which text: Domain or General."""
    measure: str
    before: float | None
    after: float
    is_better_higher: bool = False

    @property
    def change(self) -> float | None:
        """After minus before."""
        return None if self.before is None else self.after - self.before

    @property
    def word(self) -> str:
        """What the change means, so that colour is not all that tells it."""
        if self.change is None or f"{abs(self.change):.4f}" == "0.0000":
            return "same"
        return "better" if (self.change > 0) == self.is_better_higher else "worse"


def compare(objective: str, before: Losses | None, after: Losses) -> list[Comparison]:
    """The before/after table: the objective's own metrics, and the losses on each set that was measured."""
    was = before or Losses()
    metrics = [
        Comparison(
            "Domain",
            (words := words_of_metric(name)).title,
            (was.metrics or {}).get(name),
            value,
            words.is_better_higher,
        )
        for name, value in (after.metrics or {}).items()
    ]
    unit = WORDS[objective].loss_unit
    domain = _compare_losses(
        "Domain", unit, (was.domain_loss, was.domain_bits_per_byte), (after.domain_loss, after.domain_bits_per_byte)
    )
    general = _compare_losses(
        "General",
        _general_unit(objective),
        (was.general_loss, was.general_bits_per_byte),
        (after.general_loss, after.general_bits_per_byte),
    )
    tasks = [
        Comparison(
            f"Task {task}",
            (words := words_of_metric(name)).title,
            (was.tasks or {}).get(task, {}).get(name),
            value,
            words.is_better_higher,
        )
        for task, values in (after.tasks or {}).items()
        for name, value in values.items()
    ]
    return [*metrics, *tasks, *domain, *general]


def _general_unit(objective: str) -> str:
    """General text is measured as a language objective has it, or else by the next token."""
    return WORDS[objective if objective in LANGUAGE_OBJECTIVES else "causal-lm"].loss_unit


Measures = tuple[float | None, float | None]
"""Loss, and bits per byte where it is that of a text."""


def _compare_losses(held_out: str, unit: str, before: Measures, after: Measures) -> Iterator[Comparison]:
    loss, bits = after
    if loss is None:
        return
    yield Comparison(held_out, f"loss, {unit}", before[0], loss)
    if bits is not None:
        yield Comparison(held_out, "perplexity", _perplexity(before[0]), _perplexity(loss) or 0.0)
        yield Comparison(held_out, "bits per byte", before[1], bits)


def _perplexity(loss: float | None) -> float | None:
    return None if loss is None else math.exp(min(loss, 700.0))


def verdict(objective: str, before: Losses | None, after: Losses) -> str:
    """The run in one sentence."""
    was, unit = before or Losses(), WORDS[objective].loss_unit
    sets = (
        ("domain", unit, was.domain_loss, after.domain_loss),
        ("general", _general_unit(objective), was.general_loss, after.general_loss),
    )
    told = [_tell(name, unit, then, now) for name, unit, then, now in sets if now is not None]
    if not told:
        return "Nothing was held out, so nothing was measured."
    sentence = ", and ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _tell(name: str, unit: str, before: float | None, after: float) -> str:
    if before is None:
        return f"the {name} loss is {after:.2f} {unit}"
    if f"{abs(after - before):.2f}" == "0.00":
        return f"the {name} loss stayed at {after:.2f} {unit}"
    verb = "fell" if after < before else "rose"
    return f"the {name} loss {verb} by {abs(after - before):.2f} to {after:.2f} {unit}"


def tell_judgement(found: Judgement, recipe: Recipe) -> str:
    """What the judge found, in a sentence or two."""
    judge = recipe.evaluation.judge.model if recipe.evaluation.judge is not None else ""
    why = f"{found.message[0].upper()}{found.message[1:]}." if found.message else ""
    if found.win_rate is None or found.low is None or found.high is None:
        return f"{judge} has judged nothing. {why}".rstrip()
    count = found.wins + found.ties + found.losses
    sentence = (
        f"Of {count} prompts, the answer has become better in {found.wins}, worse in {found.losses}, and neither in "
        f"{found.ties}, as {judge} judges: a win rate of {found.win_rate:.0%} (95 % interval {found.low:.0%} to "
        f"{found.high:.0%})."
    )
    return f"{sentence} {why}".rstrip()


def read_held_out(trained: TrainedRun) -> HeldOut:
    """The losses on held-out data, from before the first step on."""
    points = [(0, trained.before)] if trained.before else []
    points += [(candidate.step, candidate.losses) for candidate in trained.candidates]
    domain = [(step, losses.domain_loss) for step, losses in points if losses.domain_loss is not None]
    general = [(step, losses.general_loss) for step, losses in points if losses.general_loss is not None]
    return HeldOut(domain, general, trained.exported_step)


# --------------------------------------------------------------------------------------------------------------- pages


def render_report(summary: RunSummary) -> str:
    """The page, as HTML."""
    # deferred: matplotlib takes seconds to load, which no rank should wait for before it trains
    from runyard_trainer.export.chart import draw_curve, read_curve

    curve = read_curve(summary.trained.metrics_csv)
    return _render(
        "report.html.j2",
        summary,
        chart=Markup(draw_curve(curve, read_held_out(summary.trained), WORDS[summary.recipe.objective].loss_unit)),  # noqa: S704 drawn by us from numbers alone
        training_s=curve.training_s,
        gpu_hours=summary.gpu_hours(curve.training_s),
    )


def render_card(summary: RunSummary, is_adapter: bool = False) -> str:
    """The card of the model folder, or of the adapter's, as Markdown with YAML front matter."""
    return _render("README.md.j2", summary, is_adapter=is_adapter)


def _render(template: str, summary: RunSummary, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("runyard_trainer.export"),
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
        words=WORDS[summary.recipe.objective],
        comparisons=compare(summary.recipe.objective, trained.before, trained.after),
        verdict=verdict(summary.recipe.objective, trained.before, trained.after),
        judged_words=trained.judged and tell_judgement(trained.judged.judgement, summary.recipe),
        judge_definition=JUDGE_DEFINITION,
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
    "left_out": lambda info: ", ".join(describe_left_out(info)),
    "pretty_json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
}
