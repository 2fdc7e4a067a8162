"""What a model is measured on: held-out text, tasks with known answers, prompts for a judge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import CrossRule, InputUri, Model, exactly_one
from runyard_trainer.contract.data import DataSource, no_records
from runyard_trainer.contract.services import Judge

TaskType = Literal["multiple-choice", "classification", "entities"]


class TestSet(Model):
    """The questions of a task."""

    uri: InputUri
    """A file of records, or every file under a prefix ending in `/`: JSONL, JSON, CSV or Parquet by the file's
    ending."""


class Shots(Model):
    """Answered examples that stand before each question."""

    uri: InputUri
    """Records like those of `test`."""
    count: int = Field(default=5, ge=1, le=64)
    """Examples before each question, drawn by a hash of `training.seed`, and never the question itself. Where they do
    not fit the model, fewer."""


class Task(Model):
    """Questions whose answers are known. Exactly one of `preset` and `type`."""

    cross_rules = (exactly_one("evaluation.tasks[]", "preset", "type"),)

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    """What the result is called."""
    preset: Literal["financial-phrasebank", "fiqa-sentiment", "financial-headlines", "financial-ner"] | None = None
    """A published task: its columns, prompt, labels and metric."""
    type: TaskType | None = None
    """A task of your own. `multiple-choice`: records of `prompt`, `choices` and `answer`, the number of the right one
    from 0; the likeliest is chosen. `classification`: `prompt` and `label`; the first label in what is written counts.
    `entities`: `tokens` and BIO `tags`; what is written names entities with their types."""
    test: TestSet
    """The questions."""
    shots: Shots | None = None
    """Absent: none."""


def _have_own_names(tasks: list[Task]) -> bool:
    return len({task.name for task in tasks}) == len(tasks)


class Evaluation(Model):
    """Measured on the same held-out data before the first step and after the last."""

    cross_rules = (
        no_records("evaluation", "general"),
        CrossRule(
            path="",
            holds=lambda evaluation: (
                evaluation.max_general_loss_increase is None or bool(evaluation.before and evaluation.general)
            ),
            cel="!has(self.maxGeneralLossIncrease) || (self.before && has(self.general) && size(self.general) > 0)",
            message="evaluation.maxGeneralLossIncrease compares the loss on evaluation.general with that before "
            "training: give evaluation.general, and leave evaluation.before true",
        ),
        CrossRule(
            path="tasks",
            holds=lambda evaluation: _have_own_names(evaluation.tasks),
            cel="!has(self.tasks) || self.tasks.all(task, self.tasks.exists_one(other, other.name == task.name))",
            message="evaluation.tasks[].name: two tasks have the same: name each differently",
        ),
    )

    before: bool = True
    """Measure the model before it is trained, too."""
    every_steps: int | None = Field(default=None, ge=1)
    """Measure besides every so many steps, and export the best model that was measured. Absent: export the last."""
    general: list[DataSource] = Field(default=[], max_length=64)
    """Held-out text of the general kind: what the model forgets shows here."""
    max_general_loss_increase: float | None = Field(default=None, ge=0)
    """Nats per token that the loss on `general` may rise: a model that forgot more is exported only where all did."""
    on_violation: Literal["Warn", "Fail"] = "Warn"
    """Where all forgot more: `Warn` exports the one that forgot least and says so, `Fail` ends the run as failed."""
    tasks: list[Task] = Field(default=[], max_length=16)
    """Asked of the model that is exported, and with `before` of the model as it came. For causal-lm, sft and
    preference."""
    judge: Judge | None = None
    """Compares answers of the exported model with those of the model as it came. Absent: nothing is sent anywhere."""
