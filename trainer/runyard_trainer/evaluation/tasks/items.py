"""The tasks of a run, as they are frozen beside the prepared data: the same before training and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from runyard_trainer.contract.evaluation import TaskType
from runyard_trainer.contract.reports import Report


class Item(Report):
    """A question with its shots, as text and as tokens."""

    prompt: str
    """All text that the model reads."""
    prompt_ids: list[int]
    choices: list[str] = Field(default_factory=list)
    """The choices of a multiple-choice question; else empty."""
    choice_ids: list[list[int]] = Field(default_factory=list)
    """Tokens of each choice after the prompt, with the space before it."""
    target: Any
    """The number of the right choice, the label, or the tags."""
    tokens: list[str] = Field(default_factory=list)
    """The words whose entities are asked for; else empty."""
    group: str = ""
    """Name of the question among several about a record: scores are computed for each name, and averaged."""

    def map_ids(self, map_: Callable[[list[int]], list[int]]) -> Item:
        """Return the item with its token ids mapped."""
        return self.model_copy(
            update={"prompt_ids": map_(self.prompt_ids), "choice_ids": [map_(ids) for ids in self.choice_ids]}
        )


class FrozenTask(Report):
    """A task, with all its questions."""

    name: str
    type: TaskType
    metric: str
    """The metric that stands for the task in summaries."""
    labels: list[str] = Field(default_factory=list)
    """The labels of a classification; else empty."""
    max_new_tokens: int = 0
    """Tokens that the model may write; 0 for multiple choice."""
    items: list[Item]
    dropped_shots: int = 0
    """Shots that did not fit the model, over all questions."""
    too_long: int = 0
    """Questions that do not fit even without shots, and are left out."""


class FrozenTasks(Report):
    """The tasks of a run, in the recipe's order."""

    tasks: list[FrozenTask] = Field(default_factory=list)

    def map_ids(self, map_: Callable[[list[int]], list[int]]) -> FrozenTasks:
        """Return the tasks with their token ids mapped."""
        changed = [
            task.model_copy(update={"items": [item.map_ids(map_) for item in task.items]}) for task in self.tasks
        ]
        return FrozenTasks(tasks=changed)
