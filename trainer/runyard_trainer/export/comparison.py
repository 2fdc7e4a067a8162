"""What a run changed: the before/after table of the report and the model card, and the same in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from runyard_trainer.contract.objectives import OBJECTIVES, Metric, ObjectiveName, resolve_objective
from runyard_trainer.contract.reports import Losses

_METRICS: dict[str, Metric] = {
    "accuracyPerCharacter": Metric("accuracy by likelihood per character"),
    "accuracyPerByte": Metric("accuracy by likelihood per byte"),
    "missing": Metric("share without an answer", is_better_higher=False),
    "rouge1": Metric("ROUGE-1"),
    "rouge2": Metric("ROUGE-2"),
    "rougeL": Metric("ROUGE-L"),
} | {name: metric for traits in OBJECTIVES.values() for name, metric in traits.metrics.items()}
"""By name: what tasks and written answers alone are measured by, and what the objectives have."""


def find_metric(name: str) -> Metric:
    """Return how a metric is called; by its own name where nothing says otherwise."""
    return _METRICS.get(name, Metric(name))


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
        """Whether the change is better or worse, in a word, so that colour is not all that says it."""
        if self.change is None or f"{abs(self.change):.4f}" == "0.0000":
            return "same"
        return "better" if (self.change > 0) == self.is_better_higher else "worse"


def compare(objective: ObjectiveName, before: Losses | None, after: Losses) -> list[Comparison]:
    """Build the before/after table: the objective's own metrics, and the losses on each set that was measured."""
    was = before or Losses()
    metrics = [
        Comparison(
            "Domain",
            (metric := find_metric(name)).title,
            (was.metrics or {}).get(name),
            value,
            metric.is_better_higher,
        )
        for name, value in (after.metrics or {}).items()
    ]
    unit = OBJECTIVES[objective].loss_unit
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
            (metric := find_metric(name)).title,
            (was.tasks or {}).get(task, {}).get(name),
            value,
            metric.is_better_higher,
        )
        for task, values in (after.tasks or {}).items()
        for name, value in values.items()
    ]
    return [*metrics, *tasks, *domain, *general]


def _general_unit(objective: ObjectiveName) -> str:
    """Return the unit of the loss on general text, which fine-tuned models are measured on by the next token."""
    return OBJECTIVES[resolve_objective(objective, "general")].loss_unit


Measures = tuple[float | None, float | None]
"""Loss, and bits per byte where the loss is that of a text."""


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


def verdict(objective: ObjectiveName, before: Losses | None, after: Losses) -> str:
    """Describe the run in one sentence."""
    was, unit = before or Losses(), OBJECTIVES[objective].loss_unit
    sets = (
        ("domain", unit, was.domain_loss, after.domain_loss),
        ("general", _general_unit(objective), was.general_loss, after.general_loss),
    )
    told = [_describe_loss(name, unit, then, now) for name, unit, then, now in sets if now is not None]
    if not told:
        return "Nothing was held out, so nothing was measured."
    sentence = ", and ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _describe_loss(name: str, unit: str, before: float | None, after: float) -> str:
    if before is None:
        return f"the {name} loss is {after:.2f} {unit}"
    if f"{abs(after - before):.2f}" == "0.00":
        return f"the {name} loss stayed at {after:.2f} {unit}"
    verb = "fell" if after < before else "rose"
    return f"the {name} loss {verb} by {abs(after - before):.2f} to {after:.2f} {unit}"
