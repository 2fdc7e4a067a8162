"""Resolve what a recipe leaves open, such as the samples of a step, once the data are known."""

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
    """Resolve each automatic value of a recipe, as text, by its name in `status.resolved`."""
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
    """Put the data's classes into the order of the model's head, where it was trained on the same classes already."""
    known = classes_of(config)
    if sorted(known) != sorted(labels):
        return labels
    log.info("the model tells the same %d classes apart: it goes on with its head", len(labels))
    return known


def resolve_vocabulary(info: DatasetInfo, recipe: Recipe) -> dict[str, str]:
    """Resolve the number of new tokens and the tokenizer's digest, where tokens were added to the model's own."""
    if recipe.model.extend_vocabulary is None:
        return {}
    return {"newTokens": str(len(info.new_tokens)), "tokenizer": info.tokenizer_digest}


def resolve_method(recipe: Recipe) -> dict[str, str]:
    """Resolve the hyperparameters of the adapter and of objective preference."""
    resolved = {}
    if recipe.method.is_adapter:
        resolved = {
            "rank": str(recipe.method.resolved_rank),
            "alpha": f"{recipe.method.resolved_alpha:g}",
            "dropout": f"{recipe.adapter_dropout:g}",
        }
    return resolved | ({"beta": f"{recipe.beta:g}"} if OBJECTIVES[recipe.objective].compares_answers else {})


def estimate_prepared(dataset: Dataset, recipe: Recipe, config: PretrainedConfig) -> Estimate:
    """Estimate what training on the prepared data will take."""
    num_train = len(kind_of(recipe, "train").open_samples(dataset, "train", recipe))
    tokens_per_sample = min(float(recipe.training.sequence_length), dataset.info.streams["train"].tokens / num_train)
    epoch = count_prepared_epoch(dataset, recipe)
    batch = resolve_batch(recipe, epoch)
    num_steps = count_steps(recipe, batch.sequences, epoch)
    return estimate_run(recipe, config, dataset.info.vocab_size, num_steps, batch, tokens_per_sample)


def count_prepared_epoch(dataset: Dataset, recipe: Recipe) -> Fraction:
    """Count the samples of an epoch, each as often as its source weighs."""
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    return count_epoch(parts_of(recipe, dataset, samples))
