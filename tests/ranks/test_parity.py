"""The loop against the Hugging Face Trainer: the same packed batches, seed and hyper-parameters give the same losses.

Nothing of ours takes part in the Trainer's side but the sequences and the first weights: batching, the loss and its
normalisation, clipping, AdamW, the groups that decay and the schedule are all transformers' own; the first step of a
warm-up, which there changes nothing, is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.order import Order
from runyard_trainer.models.config import check_model
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.training.sharded_model import fit_to_tokenizer, initialize_model
from transformers import Trainer, TrainingArguments

from tests.ranks.attempts import train_and_compare
from tests.ranks.outputs import open_prepared
from tests.ranks.pretraining import GPT2_WITHOUT_DROPOUT, LENGTH, LLAMA, prepare_corpus, prepared_recipe
from tests.ranks.transformers_reference import ComparedTrainer, trainer_arguments

GPT_NEOX = {
    "model_type": "gpt_neox",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


class InOrderTrainer(ComparedTrainer, Trainer):
    """The Trainer, which takes the batches as they come and remembers the loss of each."""


@pytest.mark.parametrize(
    "config", [LLAMA, GPT2_WITHOUT_DROPOUT, GPT_NEOX], ids=lambda config: str(config["model_type"])
)
def test_20_steps_lose_what_the_hugging_face_trainer_loses_to_1e_5(tmp_path: Path, config: dict[str, Any]) -> None:
    prepare_corpus(tmp_path)
    recipe = prepared_recipe(tmp_path, "ours", config)
    losses = train_and_compare(recipe, train_with_transformers(recipe, tmp_path))
    assert losses[-1] < losses[0] - 0.5


def train_with_transformers(recipe: Recipe, folder: Path) -> list[float]:
    """Return the loss of each step."""
    training = recipe.training
    dataset = open_prepared(recipe)
    torch.set_num_threads(1)
    trainer = InOrderTrainer(
        model=initialize_model(
            fit_to_tokenizer(check_model(recipe), dataset.info), build_objective(recipe, dataset.info), training.seed
        ),
        train_dataset=read_all_steps(recipe, dataset),
        args=TrainingArguments(
            output_dir=str(folder / "theirs"),
            per_device_train_batch_size=recipe.sequences_per_step,
            **trainer_arguments(recipe),
            remove_unused_columns=False,
        ),
    )
    return trainer.train_for_losses()


def read_all_steps(recipe: Recipe, dataset: Dataset) -> list[dict[str, Any]]:
    """Return the sequences of all steps, in their order."""
    order = Order(
        num_train=dataset.stream("train").num_sequences(LENGTH, keep_tail=False),
        num_replay=dataset.stream("replay").num_sequences(LENGTH, keep_tail=False),
        replay_fraction=recipe.data.replay.fraction if recipe.data.replay else 0.0,
        batch=recipe.sequences_per_step,
        seed=recipe.training.seed,
    )
    steps = range(recipe.training.steps or 0)
    samples = [order.sample(step, i) for step in steps for i in range(order.batch)]
    sequences = [dataset.stream(sample.stream).sequence(sample.index, LENGTH) for sample in samples]
    return [
        {"input_ids": sequence.input_ids, "position_ids": sequence.position_ids, "labels": sequence.labels}
        for sequence in sequences
    ]
