"""What TRL's SFTTrainer loses on the same records: its own template, spans, padding, loss, optimizer and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from runyard_trainer.contract.recipe import Recipe
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from tests.ranks.transformers_reference import ComparedTrainer, trainer_arguments


class GivenBatches(ComparedTrainer, SFTTrainer):
    """The SFTTrainer, which trains in each step on the rows of the dataset that it is given for it."""

    steps: list[list[int]]

    def get_train_dataloader(self) -> DataLoader[Any]:
        rows: Any = self.train_dataset
        columns = ("input_ids", "labels")
        batches = [self.data_collator([{key: rows[i][key] for key in columns} for i in step]) for step in self.steps]
        return DataLoader(batches, batch_size=None)


def build_trl_trainer(recipe: Recipe, rows: list[dict[str, Any]], folder: Path) -> GivenBatches:
    """Build it with the recipe's hyper-parameters; `train_dataset` holds TRL's `input_ids` and `labels`."""
    torch.set_num_threads(1)
    source = str(recipe.model.uri).removeprefix("file://")
    return GivenBatches(
        model=AutoModelForCausalLM.from_pretrained(source),
        processing_class=AutoTokenizer.from_pretrained(source),
        train_dataset=Dataset.from_list(rows),
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            bf16=False,
            gradient_checkpointing=False,
            assistant_only_loss="messages" in rows[0],
            max_length=recipe.training.sequence_length,
            **trainer_arguments(recipe),
        ),
    )


def train_with_trl(trainer: GivenBatches, steps: list[list[int]]) -> list[float]:
    """Return the loss of each step."""
    trainer.steps = steps
    return trainer.train_for_losses()
