"""What is asked of a model, as it is frozen beside the prepared data: the same before training and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field

from runyard_trainer.contract.reports import Report
from runyard_trainer.contract.tasks import TaskType


class Item(Report):
    """One question, with its shots."""

    prompt: str
    """All that the model reads."""
    prompt_ids: list[int]
    choices: list[str] = Field(default_factory=list)
    """Of multiple choice; else empty."""
    choice_ids: list[list[int]] = Field(default_factory=list)
    """Their tokens behind the prompt, the space before them included."""
    target: Any
    """The number of the right choice, the label, or the tags."""
    tokens: list[str] = Field(default_factory=list)
    """The words whose entities are asked for."""
    group: str = ""
    """Which question of several about a record this is: they are scored apart, and averaged."""

    def map_ids(self, map_: Callable[[list[int]], list[int]]) -> Item:
        """With other token ids."""
        return self.model_copy(
            update={"prompt_ids": map_(self.prompt_ids), "choice_ids": [map_(ids) for ids in self.choice_ids]}
        )


class FrozenTask(Report):
    """One task."""

    name: str
    type: TaskType
    metric: str
    """The one that is quoted."""
    labels: list[str] = Field(default_factory=list)
    """Of classification; else empty."""
    max_new_tokens: int = 0
    """That the model may write."""
    items: list[Item]
    dropped_shots: int = 0
    """That did not fit the model, over all questions."""
    too_long: int = 0
    """Questions that do not fit even alone, and are not asked."""


class FrozenTasks(Report):
    """The tasks of a run, in the recipe's order."""

    tasks: list[FrozenTask] = Field(default_factory=list)

    def map_ids(self, map_: Callable[[list[int]], list[int]]) -> FrozenTasks:
        """With other token ids."""
        changed = [
            task.model_copy(update={"items": [item.map_ids(map_) for item in task.items]}) for task in self.tasks
        ]
        return FrozenTasks(tasks=changed)
