"""The masked objectives: losses against transformers' own, and exports that open without our package."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.order import Order, seed_of
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.objectives.build import build_objective
from sklearn.metrics import accuracy_score
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

from tests.ranks.attempts import train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import open_prepared, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import CONFIGS, NO_DROPOUT, WORDS, save_model
from tests.ranks.transformers_reference import train_reference

CLASSES = {"masked-lm": AutoModelForMaskedLM, "masked-lm-nsp": AutoModelForPreTraining}


def build_rows(seed: int) -> list[dict[str, Any]]:
    """Build documents of sentences, of very different lengths."""
    chance = random.Random(seed)
    return [
        {"text": " ".join(" ".join(chance.choices(WORDS, k=5)).capitalize() + "." for _ in range(num_sentences))}
        for num_sentences in chance.choices([1, 2, 5, 30], k=120)
    ]


@pytest.mark.parametrize(
    ("objective", "model_type", "whole_word"),
    [
        ("masked-lm", "bert", False),
        ("masked-lm", "roberta", True),
        ("masked-lm", "modernbert", False),
        ("masked-lm-nsp", "bert", True),
    ],
)
def test_20_steps_lose_what_transformers_loses_to_1e_5(
    tmp_path: Path, objective: str, model_type: str, whole_word: bool
) -> None:
    save_model(tmp_path / "model", model_type, CLASSES[objective])
    write_rows(tmp_path / "train.jsonl", build_rows(5))
    write_rows(tmp_path / "general.jsonl", build_rows(6))
    replay = {"fraction": 0.25, "sources": [{"uri": f"file://{tmp_path}/general.jsonl"}]}
    recipe = build_recipe(tmp_path, objective, data={"replay": replay}, masking={"wholeWord": whole_word})
    prepare_run(recipe)
    dataset = open_prepared(recipe)
    train_and_compare(recipe, train_reference(recipe, dataset.info, read_batches(recipe, dataset)))


def read_batches(recipe: Recipe, dataset: Dataset) -> list[dict[str, torch.Tensor]]:
    """Return every step's texts as they are masked, in one piece."""
    streams = {name: kind_of(recipe, name).open_samples(dataset, name, recipe) for name in ("train", "replay")}
    fraction = recipe.data.replay.fraction if recipe.data.replay else 0.0
    seed = recipe.training.seed
    order = Order(len(streams["train"]), len(streams["replay"]), fraction, recipe.sequences_per_step, seed)
    objective = build_objective(recipe, dataset.info)
    batches = []
    for step in range(recipe.training.steps or 0):
        chosen = [order.sample(step, i) for i in range(order.batch)]
        samples = [streams[place.stream][place.index] for place in chosen]
        batch = objective.collate(samples, [seed_of(seed, step, i) for i in range(order.batch)], 0)
        assert not (batch.inputs["labels"] == batch.inputs["input_ids"]).all()
        batches.append(batch.inputs)
    return batches


@pytest.mark.parametrize(
    ("objective", "model_type", "tokenizer"),
    [
        ("masked-lm", "bert", "wordpiece"),
        ("masked-lm", "roberta", "bpe"),
        ("masked-lm", "modernbert", "bpe"),
        ("masked-lm-nsp", "bert", "wordpiece"),
    ],
)
def test_a_model_from_scratch_opens_without_our_package_and_has_the_metrics_of_eval_json(
    tmp_path: Path, objective: str, model_type: str, tokenizer: str
) -> None:
    write_rows(tmp_path / "train.jsonl", build_rows(5))
    write_rows(tmp_path / "general.jsonl", build_rows(6))
    config = {"model_type": model_type, **CONFIGS[model_type], **NO_DROPOUT.get(model_type, {})}
    config.pop("global_attn_every_n_layers", None)
    scratch = {"config": config, "tokenizer": {"train": {"type": tokenizer, "vocabSize": 300}}}
    recipe = build_recipe(
        tmp_path,
        objective,
        model={"uri": None, "scratch": scratch},
        evaluation={"general": [{"uri": f"file://{tmp_path}/general.jsonl"}]},
    )
    prepare_run(recipe)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2

    folder = tmp_path / "output" / "model"
    model = CLASSES[objective].from_pretrained(folder)
    opened = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(opened)
    assert AutoConfig.from_pretrained(folder).pad_token_id == opened.pad_token_id
    assert model(**opened(f"The {opened.mask_token} sees.", return_tensors="pt"))[0].shape[-1] == len(opened)

    evaluation = read_output(recipe, "eval.json")
    domain, general = (measure_again(model, recipe, stream) for stream in ("validation", "general"))
    assert evaluation["after"]["domainLoss"] == pytest.approx(domain.pop("loss"), rel=1e-5)
    assert evaluation["after"]["generalLoss"] == pytest.approx(general.pop("loss"), rel=1e-5)
    assert evaluation["after"]["metrics"] == pytest.approx(domain)
    assert evaluation["after"]["domainLoss"] < evaluation["before"]["domainLoss"] - 0.3
    assert "domainBitsPerByte" not in evaluation["after"]
    card = (folder / "README.md").read_text()
    assert f"{CLASSES[objective].__name__}.from_pretrained" in card


@torch.no_grad()
def measure_again(model: Any, recipe: Recipe, stream: str) -> dict[str, float]:
    """Measure loss and metrics, one text after the other, from the model's own logits."""
    dataset = open_prepared(recipe)
    samples = kind_of(recipe, stream).open_samples(dataset, stream, recipe)
    collate = build_objective(recipe, dataset.info, stream).collate
    tokens: list[tuple[torch.Tensor, torch.Tensor]] = []
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    model.eval()
    for index in range(len(samples)):
        inputs = dict(collate([samples[index]], [seed_of(0, -1, index)], 0).inputs)
        labels, label = inputs.pop("labels"), inputs.pop("next_sentence_label", None)
        output = model(**inputs)
        is_masked = labels != IGNORED
        tokens.append((output[0][is_masked], labels[is_masked]))
        if label is not None:
            pairs.append((output.seq_relationship_logits, label))
    loss, accuracy = _judge(tokens)
    if not pairs:
        return {"loss": loss, "maskedAccuracy": accuracy}
    pair_loss, pair_accuracy = _judge(pairs)
    return {"loss": loss + pair_loss, "maskedAccuracy": accuracy, "nspAccuracy": pair_accuracy}


def _judge(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return float(loss), float(accuracy_score(labels.numpy(), logits.argmax(dim=-1).numpy()))
