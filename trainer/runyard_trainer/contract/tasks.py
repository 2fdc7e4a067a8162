"""Tasks for a language model: questions with known answers, asked after some that are answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import InputUri, Model, exactly_one

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
