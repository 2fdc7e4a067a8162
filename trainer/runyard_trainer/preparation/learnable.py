"""Refuse a run that would change no weight, or not as the recipe asks, before a GPU is spent on it."""

from __future__ import annotations

from fractions import Fraction

from transformers import PretrainedConfig

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.objectives import OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import describe_left_out
from runyard_trainer.data.order import count_replayed
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.run_length import count_places, is_batch_given
from runyard_trainer.models.config import check_vocabulary
from runyard_trainer.preparation.resolve import count_prepared_epoch

_SMALLEST_CHANGE = 1e-12
"""The smallest change of a weight that counts: fp32 rounds a smaller one off every weight above 3e-5, and weights below
that change no prediction."""
_ADAMW_EPSILON = 1e-8


def check_prepared(dataset: Dataset, recipe: Recipe, config: PretrainedConfig) -> None:
    """Refuse a prepared dataset that the run's model could not learn from as the recipe asks.

    Raises:
        UserError: of the first check that fails.
    """
    check_vocabulary(config, dataset.info.base_vocab_size, recipe)
    check_enough_data(dataset, recipe)
    check_targets(dataset, recipe)
    check_batch(recipe, count_prepared_epoch(dataset, recipe))


def check_batch(recipe: Recipe, num_train: int | Fraction) -> None:
    """Refuse a given batch that all epochs together cannot fill once: a step would repeat samples.

    Args:
        recipe: the run's.
        num_train: the samples of an epoch.

    Raises:
        UserError: DATA_ERROR.
    """
    training, batch = recipe.training, recipe.sequences_per_step
    if training.epochs is None or not is_batch_given(recipe):
        return
    replay = recipe.data.replay
    trained = batch - (count_replayed(replay.fraction, batch) if replay is not None else 0)
    places = count_places(training.epochs, num_train)
    if trained <= places:
        return
    field, size = "training.batchSequences", f"{batch}"
    if training.batch_tokens is not None:
        field, size = "training.batchTokens", f"{training.batch_tokens} tokens, {batch} samples"
    raise UserError(
        f"{field}: a step takes {size}, and training.epochs {training.epochs:g} of data.train give only "
        f"{float(places):g}. Lower {field} or leave it out, train for more epochs, or, where samples shall be repeated "
        "within a step, give training.steps in place of training.epochs",
        ExitCode.DATA_ERROR,
    )


def check_rate(recipe: Recipe) -> None:
    """Refuse a rate so low that no step would change a weight.

    A step of AdamW moves a weight by at most the learning rate, and by less where the gradient is clipped to less than
    AdamW's epsilon.

    Raises:
        UserError: SPEC_ERROR.
    """
    clip = recipe.training.optimizer.max_grad_norm
    if recipe.learning_rate < _SMALLEST_CHANGE:
        raise UserError(
            f"training.learningRate {recipe.learning_rate:g}: no step would move a weight by more than that, which "
            f"fp32 rounds away, so nothing would be learned: write {_SMALLEST_CHANGE:g} at least, or leave it out"
        )
    if recipe.learning_rate * clip / _ADAMW_EPSILON < _SMALLEST_CHANGE:
        raise UserError(
            f"training.optimizer.maxGradNorm {clip:g}: gradients that small move no weight, as AdamW divides them by "
            f"{_ADAMW_EPSILON:g} at least, so nothing would be learned: write 1, or leave it out"
        )


def check_targets(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse text for causal-lm whose documents all have one token: there is no next token to predict.

    The other objectives leave out a record without anything to learn when they encode it.

    Raises:
        UserError: DATA_ERROR.
    """
    train = dataset.info.streams["train"]
    if OBJECTIVES[recipe.objective].continues_text and train.tokens == train.documents:
        raise UserError(
            f"data.train has {train.documents} documents of one token each, and the first token of a document is "
            "predicted from nothing, so nothing would be learned: give longer documents",
            ExitCode.DATA_ERROR,
        )


def check_enough_data(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse data that leave no sample to train on, or to replay.

    Raises:
        UserError: DATA_ERROR.
    """
    for name, field in (("train", "data.train"), ("replay", "data.replay.sources")):
        if name == "replay" and (recipe.data.replay is None or recipe.data.replay.sources is None):
            continue
        if len(kind_of(recipe, name).open_samples(dataset, name, recipe)):
            continue
        stream = dataset.info.streams[name]
        aside = describe_left_out(stream)
        held_out = dataset.info.streams.get("validation", StreamInfo()).documents
        if name == "train" and recipe.data.validation.sources is None and held_out:
            aside = [f"{held_out} held out by data.validation.fraction", *aside]
        besides = f" besides {', '.join(aside)}" if aside else ""
        raise UserError(
            f"{field} has {stream.documents} documents with {stream.tokens} tokens{besides}: less than one sequence "
            f"of training.sequenceLength {recipe.training.sequence_length}. Give more text, or shorter sequences",
            ExitCode.DATA_ERROR,
        )
