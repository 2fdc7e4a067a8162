"""The model as it came, where tokens were added to its tokenizer: measured with its own, before the first step.

    prepared data ─(in_base_tokens)─> what is held out and asked, as the model's own tokenizer cuts it
      ─> the model without new rows ─> losses per token of its own ─(restate)─> per token of the run's

Two losses per token tell nothing where the tokens are not the same. Spread over the tokens that the run's tokenizer
makes of the same text, the first one can be compared: both are then the bits per byte, but for the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runyard_trainer.contract.reports import Losses
from runyard_trainer.data.dataset.dataset import Dataset, DatasetInfo
from runyard_trainer.evaluation.judge.prompts import FrozenPrompts
from runyard_trainer.evaluation.tasks.items import FrozenTasks
from runyard_trainer.training.sharded_model import ShardedModule

_PER_TOKEN_METRICS = ("tokenAccuracy",)
"""That cannot be restated."""


@dataclass(frozen=True)
class Subject:
    """A model, and what it is measured on."""

    module: ShardedModule
    dataset: Dataset
    tasks: FrozenTasks
    prompts: FrozenPrompts


def as_it_came(trained: Subject, load: Callable[[DatasetInfo], ShardedModule]) -> Subject:
    """The model that is to be trained, before the first step: itself, or where it has new tokens the one without them.

    Args:
        trained: the model that is to be trained.
        load: loads the model for a dataset.
    """
    info = trained.dataset.info
    if not info.new_tokens:
        return trained
    dataset = trained.dataset.in_base_tokens()
    return Subject(
        load(dataset.info),
        dataset,
        trained.tasks.map_ids(info.write_out),
        trained.prompts.map_ids(info.write_out),
    )


def restate(losses: Losses, info: DatasetInfo) -> Losses:
    """Losses per token of the model's own tokenizer, as losses per token of the run's."""
    if not info.new_tokens:
        return losses

    def spread(loss: float | None, stream: str) -> float | None:
        if loss is None:
            return None
        return loss * info.base_streams[stream].trained_tokens / info.streams[stream].trained_tokens

    metrics = {name: value for name, value in (losses.metrics or {}).items() if name not in _PER_TOKEN_METRICS}
    return losses.model_copy(
        update={
            "domain_loss": spread(losses.domain_loss, "validation"),
            "general_loss": spread(losses.general_loss, "general"),
            "metrics": metrics or None,
        }
    )
