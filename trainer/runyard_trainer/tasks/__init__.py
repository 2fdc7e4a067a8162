"""In-context tasks: what is asked of a language model before it is trained and after, and what its answers amount to.

Without torch; the model is asked in `task_answers`.
"""

from __future__ import annotations

from runyard_trainer.tasks.build import build_tasks
from runyard_trainer.tasks.items import FrozenTask, FrozenTasks, Item
from runyard_trainer.tasks.scores import score_choices, score_texts

__all__ = ["FrozenTask", "FrozenTasks", "Item", "build_tasks", "score_choices", "score_texts"]
