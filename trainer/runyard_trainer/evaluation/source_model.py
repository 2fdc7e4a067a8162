"""Measure the model before its first step, with its own tokenizer where the run has added tokens to it.

    held-out data, tasks, prompts ─(in_base_tokens, write_out)─> the same in tokens of the model's own tokenizer
      ─> the model without new rows ─> losses per own token ─(convert_losses)─> losses per token of the run

Losses per token can only be compared where the tokens are the same. Spread over the tokens that the run's tokenizer
makes of the same text, the first losses can be compared with later ones: as bits per byte, in another unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runyard_trainer.contract.reports import Losses
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.evaluation.evaluator import Evaluator
from runyard_trainer.objectives.base import Objective
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.training.sharded_model import ShardedModule

LoadModule = Callable[[Objective, DatasetInfo], ShardedModule]

_PER_TOKEN_METRICS = ("tokenAccuracy",)
"""Metrics that depend on the tokenizer and cannot be converted."""


def measure_source_model(evaluator: Evaluator, load: LoadModule) -> tuple[Losses, list[str] | None]:
    """Measure the model before its first step; all ranks call this together.

    Returns the losses per token of the run, and the answers to the judge's prompts: None where there are none.

    Args:
        evaluator: of the model that will be trained.
        load: loads the model for a dataset.
    """
    source = open_source_evaluator(evaluator, load)
    losses = convert_losses(source.add_tasks(source.measure_losses(0), 0), evaluator.dataset.info)
    return losses, source.write_answers(0) if source.prompts.prompts else None


def open_source_evaluator(evaluator: Evaluator, load: LoadModule) -> Evaluator:
    """Return the evaluator itself, or where tokens were added one of the model loaded without them."""
    info = evaluator.dataset.info
    if not info.new_tokens:
        return evaluator
    dataset = evaluator.dataset.in_base_tokens()
    objective = build_objective(evaluator.recipe, dataset.info)
    return replace(
        evaluator,
        module=load(objective, dataset.info),
        objective=objective,
        dataset=dataset,
        tasks=evaluator.tasks.map_ids(info.write_out),
        prompts=evaluator.prompts.map_ids(info.write_out),
    )


def convert_losses(losses: Losses, info: DatasetInfo) -> Losses:
    """Convert losses per token of the model's own tokenizer to losses per token of the run's."""
    if not info.new_tokens:
        return losses
    metrics = {name: value for name, value in (losses.metrics or {}).items() if name not in _PER_TOKEN_METRICS}
    return losses.model_copy(
        update={
            "domain_loss": _convert_loss(losses.domain_loss, info, "validation"),
            "general_loss": _convert_loss(losses.general_loss, info, "general"),
            "metrics": metrics or None,
        }
    )


def _convert_loss(loss: float | None, info: DatasetInfo, stream: str) -> float | None:
    if loss is None:
        return None
    return loss * info.base_streams[stream].trained_tokens / info.streams[stream].trained_tokens
