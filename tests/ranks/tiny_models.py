"""Tiny models of each kind with random weights, saved with a tokenizer as pretrained ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from runyard_trainer.data.tokenizers.tokenizer import train_tokenizer
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
"""The class that a model of each kind was pretrained as."""
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "classifier_dropout": 0.0},
    "gpt_neox": {"classifier_dropout": 0.0},
    "llama": {"classifier_dropout": 0.0},
    "qwen2": {"classifier_dropout": 0.0},
}


def save_model(folder: Path, model_type: str, auto_class: Any, **fields: Any) -> None:
    """Save random weights without dropout, and a WordPiece tokenizer with BERT's special tokens."""
    tokenizer = build_tokenizer(has_types=model_type == "bert")
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    given = CONFIGS[model_type] | NO_DROPOUT.get(model_type, {}) | tokens | fields
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **given)
    torch.manual_seed(0)
    auto_class.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_language_model(folder: Path, model_type: str) -> None:
    """Save random weights of a decoder without dropout, and a byte-level BPE, as such models have."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 4, 400, folder)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    given = CONFIGS[model_type] | NO_DROPOUT.get(model_type, {}) | ids
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=tokenizer.vocab_size, **given)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def build_tokenizer(has_types: bool = True) -> PreTrainedTokenizerFast:
    """Build a WordPiece tokenizer that makes `[CLS] text [SEP] pair [SEP]`."""
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
