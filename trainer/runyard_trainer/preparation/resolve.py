"""Resolve what a recipe leaves open, now that the data are known."""

from __future__ import annotations

import logging
from fractions import Fraction

from transformers import PretrainedConfig

from runyard_trainer.contract.data import DEFAULT_NOISE_CLIP
from runyard_trainer.contract.objectives import OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Estimate
from runyard_trainer.data.dataset.dataset import Dataset, DatasetInfo
from runyard_trainer.data.order import count_epoch
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, resolve_batch
from runyard_trainer.models.config import classes_of
from runyard_trainer.preparation.estimate import estimate_run

log = logging.getLogger(__name__)


def resolve(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Each value that was automatic, as text."""
    epoch = count_prepared_epoch(dataset, recipe)
    batch = resolve_batch(recipe, epoch)
    validation, select = recipe.data.validation, recipe.data.select
    is_split_default = validation.fraction is None and validation.sources is None
    is_clip_default = select is not None and select.uses_reference and select.noise_clip is None
    return {
        **({"validationFraction": f"{validation.held_out_fraction:g}"} if is_split_default else {}),
        **({"noiseClip": f"{DEFAULT_NOISE_CLIP:g}"} if is_clip_default else {}),
        "learningRate": f"{recipe.learning_rate:g}",
        "batchSequences": str(batch.sequences),
        "batchTokens": str(batch.sequences * recipe.training.sequence_length),
        **({} if batch.reason is None else {"batchReason": batch.reason}),
        "totalSteps": str(count_steps(recipe, batch.sequences, epoch)),
        "vocabSize": str(dataset.info.vocab_size),
        **resolve_vocabulary(dataset.info, recipe),
        **resolve_method(recipe),
    }


def order_labels(labels: list[str], config: PretrainedConfig) -> list[str]:
    """The data's classes, in the order of the model's own where it is trained on the same ones already."""
    known = classes_of(config)
    if sorted(known) != sorted(labels):
        return labels
    log.info("the model tells the same %d classes apart: it goes on with its head", len(labels))
    return known


def resolve_vocabulary(info: DatasetInfo, recipe: Recipe) -> dict[str, str]:
    """Likewise, of what was added to the model's own tokenizer."""
    if recipe.model.extend_vocabulary is None:
        return {}
    return {"newTokens": str(len(info.new_tokens)), "tokenizer": info.tokenizer_digest}


def resolve_method(recipe: Recipe) -> dict[str, str]:
    """Likewise, of the adapter and of preference."""
    resolved = {}
    if recipe.method.is_adapter:
        resolved = {
            "rank": str(recipe.method.resolved_rank),
            "alpha": f"{recipe.method.resolved_alpha:g}",
            "dropout": f"{recipe.adapter_dropout:g}",
        }
    return resolved | ({"beta": f"{recipe.beta:g}"} if OBJECTIVES[recipe.objective].compares_answers else {})


def estimate_prepared(dataset: Dataset, recipe: Recipe, config: PretrainedConfig) -> Estimate:
    """What training on the prepared data will take."""
    num_train = len(kind_of(recipe, "train").open_samples(dataset, "train", recipe))
    tokens_per_sample = min(float(recipe.training.sequence_length), dataset.info.streams["train"].tokens / num_train)
    epoch = count_prepared_epoch(dataset, recipe)
    batch = resolve_batch(recipe, epoch)
    num_steps = count_steps(recipe, batch.sequences, epoch)
    return estimate_run(recipe, config, dataset.info.vocab_size, num_steps, batch, tokens_per_sample)


def count_prepared_epoch(dataset: Dataset, recipe: Recipe) -> Fraction:
    """Samples of an epoch, each as often as it weighs."""
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    return count_epoch(parts_of(recipe, dataset, samples))
