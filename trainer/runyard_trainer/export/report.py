"""The report page (report.html) and the model card (README.md): what the run did, in words, a curve and tables.

Both are jinja2 templates over one `RunSummary`. The page is a single file: styles and the chart are inside, nothing is
loaded from elsewhere, nothing runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from runyard_trainer.contract.objectives import OBJECTIVES, Mode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Judgement, Losses
from runyard_trainer.contract.times import format_duration
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import describe_left_out
from runyard_trainer.evaluation.judge.verdicts import Judged
from runyard_trainer.evaluation.tasks.items import FrozenTasks
from runyard_trainer.export.chart import LossPoints
from runyard_trainer.export.comparison import compare, verdict
from runyard_trainer.export.continuations import Continuation
from runyard_trainer.training.best_model import Candidate

_MODES: dict[Mode, str] = {
    "PreTraining": "Pre-training",
    "ContinuedPreTraining": "Continued pre-training",
    "FineTuning": "Fine-tuning",
}
JUDGE_DEFINITION = (
    "The model as it came and the exported model answered each prompt greedily. The judge compared the two answers "
    "twice, in both orders: one is better where it is called so both times, and else it is a tie; equal answers are a "
    "tie without asking. The win rate counts ties half; its interval is Wilson's at 95 %. Judges tend to prefer longer "
    "answers, and those of models like themselves."
)
"""How answers were compared, for the page and for eval.json."""


@dataclass(frozen=True)
class TrainedRun:
    """What the training loop has measured when its last step is done."""

    before: Losses | None
    """None where the recipe does not measure before."""
    after: Losses
    steps: int
    tokens: int
    """Tokens trained on, over all attempts."""
    precision: str
    """The precision of the computation: bf16 or fp32."""
    metrics_csv: str
    """The rows of the whole run, header first, with the columns step, loss, learning_rate and time among others."""
    resolved: Mapping[str, str]
    """The value chosen for each automatic setting, by name."""
    exported_step: int | None = None
    """The step whose model is exported."""
    candidates: Sequence[Candidate] = ()
    """The models that were measured, in order of step."""
    warning: str | None = None
    """A way in which the result is not as the recipe asks."""
    tasks: FrozenTasks = field(default_factory=FrozenTasks)
    """The tasks that the model was asked."""
    tasks_sha256: str | None = None
    """The sha256 of the file with the tasks."""
    prompts_sha256: str | None = None
    """The sha256 of the file with the prompts that were judged."""
    judged: Judged | None = None
    """The findings of a judge; None where the recipe names none."""
    tracking_url: str | None = None
    """The run's page on a tracking server."""


@dataclass(frozen=True)
class RunSummary:
    """Everything that the report and the model card show."""

    name: str
    recipe: Recipe
    trained: TrainedRun
    attempts: int
    processes: int
    accelerator: str | None
    """The name of the GPUs; None on CPU."""
    num_parameters: int
    num_trained: int
    """The number of parameters that were trained."""
    num_labels: int
    """Classes that the model names; 0 where it names none."""
    num_new_tokens: int
    """The number of tokens that were added to the model's own."""
    num_rows: int
    """The number of rows of the embeddings."""
    streams: Mapping[str, StreamInfo]
    continuations: list[Continuation]
    lineage: dict[str, Any]
    model_uri: str

    @property
    def mode(self) -> str:
        """The run's mode in words: Continued pre-training."""
        return _MODES[self.recipe.mode]

    def gpu_hours(self, training_s: float | None) -> float | None:
        """Return GPUs times the time in training; None on CPU or where the time is not known."""
        return None if self.accelerator is None or training_s is None else self.processes * training_s / 3600


def describe_judgement(found: Judgement, recipe: Recipe) -> str:
    """Describe what the judge found, in a sentence or two."""
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


def read_held_out(trained: TrainedRun) -> LossPoints:
    """Return the losses on held-out data, from before the first step on."""
    points = [(0, trained.before)] if trained.before else []
    points += [(candidate.step, candidate.losses) for candidate in trained.candidates]
    domain = [(step, losses.domain_loss) for step, losses in points if losses.domain_loss is not None]
    general = [(step, losses.general_loss) for step, losses in points if losses.general_loss is not None]
    return LossPoints(domain, general, trained.exported_step)


# --------------------------------------------------------------------------------------------------------------- pages


def render_report(summary: RunSummary) -> str:
    """Render the page, as HTML."""
    # deferred: matplotlib takes seconds to load, which no rank should wait for before it trains
    from runyard_trainer.export.chart import draw_curve, read_curve

    curve = read_curve(summary.trained.metrics_csv)
    return _render(
        "report.html.j2",
        summary,
        chart=Markup(draw_curve(curve, read_held_out(summary.trained), OBJECTIVES[summary.recipe.objective].loss_unit)),  # noqa: S704 drawn by us from numbers alone
        training_s=curve.training_s,
        gpu_hours=summary.gpu_hours(curve.training_s),
    )


def render_card(summary: RunSummary, is_adapter: bool = False) -> str:
    """Render the card of the model folder, or of the adapter's, as Markdown with YAML front matter."""
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
        traits=OBJECTIVES[summary.recipe.objective],
        comparisons=compare(summary.recipe.objective, trained.before, trained.after),
        verdict=verdict(summary.recipe.objective, trained.before, trained.after),
        judgement=trained.judged and describe_judgement(trained.judged.judgement, summary.recipe),
        judge_definition=JUDGE_DEFINITION,
        streams={name: info for name, info in summary.streams.items() if info.documents},
        **values,
    )


def format_count(count: float) -> str:
    """Format 12,345 as it is, and from a million on as 3 digits and a word."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {word}"
    return f"{count:,.0f}"


def format_number(value: float | None, sign: bool = False) -> str:
    """Format a number with four significant digits at least; a dash for None, and a true minus sign."""
    if value is None:
        return "–"
    digits = 3 if abs(value) < 100 else 1
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


_FILTERS: dict[str, Callable[..., str]] = {
    "count": format_count,
    "time": format_duration,
    "number": format_number,
    "left_out": lambda info: ", ".join(describe_left_out(info)),
    "pretty_json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
}
