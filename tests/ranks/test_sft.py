"""Supervised fine-tuning: tokens, spans and losses against TRL's, and models that answer without our package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from runyard_trainer.contract import Recipe
from runyard_trainer.order import Order
from runyard_trainer.records import kind_of
from runyard_trainer.records.packing import PackedRecords
from runyard_trainer.shards import IGNORED, open_dataset, read_resolved
from runyard_trainer.storage import open_store

from tests.ranks.chat_models import CHATML, build_chat_rows, build_prompt_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, prepare_run, train_rank, write_rows
from tests.ranks.prepared import read_losses
from tests.ranks.run_ranks import run_ranks
from tests.ranks.trl_reference import build_trl_trainer, train_with_trl

CASES = [
    ("llama", "prompt-completion"),
    ("llama", "messages"),
    ("gpt_neox", "prompt-completion"),
    ("gpt2", "messages"),
    ("qwen2", "messages"),
]


@pytest.mark.parametrize(("model_type", "record_format"), CASES)
def test_20_steps_lose_what_trl_loses_to_1e_5_on_the_same_tokens_and_spans(
    tmp_path: Path, model_type: str, record_format: str
) -> None:
    is_chat = record_format == "messages"
    rows = build_chat_rows() if is_chat else build_prompt_rows()
    save_chat_model(tmp_path / "model", model_type, CHATML if is_chat else None)
    write_rows(tmp_path / "train.jsonl", rows)
    recipe = build_recipe(
        tmp_path,
        "sft",
        data={"validation": {"fraction": 0}},
        evaluation={"before": False},
        training={"batchSequences": 4},
    )
    prepare_run(recipe)
    trainer = build_trl_trainer(recipe, rows, tmp_path)
    samples = open_samples(recipe, "train")
    for i, theirs in enumerate(cast(Any, trainer.train_dataset)):
        ours = samples.examples[i]
        assert ours["input_ids"].tolist() == theirs["input_ids"]
        assert read_labels(ours) == theirs["labels"]

    order = Order(len(samples), 0, 0.0, recipe.sequences_per_step, recipe.training.seed)
    places = [[order.sample(step, i).index for i in range(order.batch)] for step in range(20)]
    want = train_with_trl(trainer, [[row for i in step for row in samples.sequences[i]] for step in places])
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    losses = read_losses(recipe)
    assert losses == pytest.approx(want, rel=1e-5)
    assert losses[-1] < losses[0] - 0.5


def open_samples(recipe: Recipe, stream: str) -> PackedRecords:
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    folder = Path(recipe.output.uri.removeprefix("file://"))
    dataset = open_dataset(open_store(resolved.dataset, recipe.storage), folder / "cache")
    return cast(PackedRecords, kind_of(recipe, stream).open_samples(dataset, stream, recipe))


def read_labels(example: dict[str, Any]) -> list[int]:
    labels = [IGNORED] * len(example["input_ids"])
    for start, end in example["spans"].reshape(-1, 2).tolist():
        labels[start:end] = example["input_ids"][start:end].tolist()
    return labels
