"""Tiny pretrained models of each kind, with a tokenizer, and runs that fine-tune them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo, open_dataset, read_resolved
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.base import Sample
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.prepare import prepare
from runyard_trainer.storage.open import open_store
from runyard_trainer.train import train
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

WORDS = "the a cat dog bird sees likes finds small red old house tree and but then good bad very not".split()  # noqa: SIM905 - a list of words reads best as a sentence

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _SIZES | {"max_position_embeddings": 128},
    "roberta": _SIZES | {"max_position_embeddings": 130, "type_vocab_size": 1},
    "modernbert": _SIZES | {"max_position_embeddings": 128, "global_attn_every_n_layers": 2},
    "llama": _SIZES | {"max_position_embeddings": 128, "num_key_value_heads": 2},
    "qwen2": _SIZES | {"max_position_embeddings": 128, "num_key_value_heads": 2},
    "gpt_neox": _SIZES | {"max_position_embeddings": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
BASES = {
    "bert": AutoModelForMaskedLM,
    "roberta": AutoModelForMaskedLM,
    "modernbert": AutoModelForMaskedLM,
    "llama": AutoModelForCausalLM,
    "qwen2": AutoModelForCausalLM,
    "gpt_neox": AutoModelForCausalLM,
    "gpt2": AutoModelForCausalLM,
}
"""As what a model of each kind was pretrained."""
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "classifier_dropout": 0.0},
    "gpt_neox": {"classifier_dropout": 0.0},
    "llama": {"classifier_dropout": 0.0},
    "qwen2": {"classifier_dropout": 0.0},
}


def save_model(folder: Path, model_type: str, auto_class: Any, **fields: Any) -> None:
    """Random weights without dropout, and a WordPiece tokenizer with BERT's special tokens."""
    tokenizer = build_tokenizer(has_types=model_type == "bert")
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    given = CONFIGS[model_type] | NO_DROPOUT.get(model_type, {}) | tokens | fields
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **given)
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tokenizer(has_types: bool = True) -> PreTrainedTokenizerFast:
    """[CLS] text [SEP] pair [SEP]."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        WORDS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"],
    )


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSONL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build_recipe(folder: Path, objective: str, output: str = "output", **parts: Any) -> Recipe:
    """From `model/` and `train.jsonl` in the folder; `parts` are merged into the sections of that name."""
    sections: dict[str, Any] = {
        "model": {"uri": f"file://{folder}/model"},
        "data": {"train": [{"uri": f"file://{folder}/train.jsonl"}], "validation": {"fraction": 0.2}},
        "training": {
            "steps": 20,
            "sequenceLength": 64,
            "batchSequences": 8,
            "microBatch": 4,
            "learningRate": 3e-3,
            "schedule": {"warmup": 0.1},
            "seed": 3,
        },
        "checkpoint": {"everySteps": 10},
        "output": {"uri": f"file://{folder}/{output}"},
    }
    merged = {name: section | parts.pop(name, {}) for name, section in sections.items()}
    return Recipe.model_validate({"objective": objective, **merged, **parts})


def prepare_run(recipe: Recipe) -> None:
    """As a prepare pod does."""
    prepare(recipe, RunContext.from_environment({}, recipe))


def train_rank(world: World, recipe: Recipe) -> str:
    """Be one rank of a prepared run."""
    context = RunContext.from_environment({}, recipe)
    train(recipe, dataclasses.replace(context, world=world))
    return "finished"


def read_steps(recipe: Recipe) -> tuple[list[list[Sample]], DatasetInfo]:
    """The samples of every step of a prepared run, in its order, and dataset.json."""
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    cache_dir = Path(recipe.output.uri.removeprefix("file://"), "cache")
    manifest = open_store(resolved.dataset, recipe.storage)
    dataset = open_dataset(manifest, cache_dir, resolved.sha256, resolved.labels)
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    order = Order(len(samples), 0, 0.0, recipe.sequences_per_step, recipe.training.seed)
    steps = range(recipe.training.steps or 0)
    return [[samples[order.sample(step, i).index] for i in range(order.batch)] for step in steps], dataset.info


def read_output(recipe: Recipe, name: str) -> Any:
    """A file that the run has left."""
    text = Path(recipe.output.uri.removeprefix("file://"), name).read_text()
    return json.loads(text) if name.endswith(".json") else text
