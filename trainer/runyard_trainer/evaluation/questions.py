"""Freeze a run's tasks and its judge's prompts, laid out in tokens, beside the prepared data."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from transformers import PretrainedConfig

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Report
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.tokenizers.tokenizer import load_tokenizer
from runyard_trainer.evaluation.judge.prompts import build_prompts
from runyard_trainer.evaluation.tasks.build import build_tasks
from runyard_trainer.evaluation.tasks.items import FrozenTasks
from runyard_trainer.models.config import count_positions
from runyard_trainer.storage.base import Location

log = logging.getLogger(__name__)


Digests = tuple[str | None, str | None]


def freeze_questions(prepared: Dataset, recipe: Recipe, config: PretrainedConfig, scratch_dir: Path) -> Digests:
    """Store tasks and judge's prompts beside the prepared data; return the sha256 of each, None where there is none."""
    if not recipe.evaluation.tasks and recipe.evaluation.judge is None:
        return None, None
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    location, pieces = prepared.location, tuple(map(tuple, prepared.info.new_tokens))
    tokenizer = replace(load_tokenizer(location / "tokenizer", folder, "the prepared tokenizer"), pieces=pieces)
    max_tokens = count_positions(config) or recipe.training.sequence_length
    tasks = prompts = None
    if recipe.evaluation.tasks:
        built = build_tasks(recipe, tokenizer, max_tokens)
        log_tasks(built)
        tasks = freeze(location, "tasks", built)
    if recipe.evaluation.judge is not None:
        chosen = build_prompts(recipe, tokenizer, max_tokens)
        log.info(
            "a judge will compare answers to %d of %d prompts; %d more do not fit the model",
            *(len(chosen.prompts), chosen.records, chosen.too_long),
        )
        prompts = freeze(location, "prompts", chosen)
    return tasks, prompts


def freeze(location: Location, name: str, value: Report) -> str:
    """Store a value as JSON under a name with its sha256; return that."""
    data = value.to_json().encode()
    digest = hashlib.sha256(data).hexdigest()
    (location / f"{name}-{digest}.json").put(data)
    return digest


def log_tasks(tasks: FrozenTasks) -> None:
    """Log how many questions each task has, and what was left out."""
    for task in tasks.tasks:
        log.info(
            "task %s: %d questions, %d more do not fit the model; %d shots dropped for room",
            *(task.name, len(task.items), task.too_long, task.dropped_shots),
        )
