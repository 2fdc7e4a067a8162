"""Tiny pretrained decoders with a byte-level tokenizer, and dialogues to fine-tune them on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.ranks.tiny_models import CONFIGS, NO_DROPOUT, WORDS

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""With the tags by which transformers tells what the assistant says."""

OPPOSITES = {"good": "bad", "small": "old", "cat": "dog", "red": "tree"}


def save_chat_model(folder: Path, model_type: str = "llama", template: str | None = None) -> None:
    """Save random weights without dropout, and a tokenizer with ChatML's special tokens, with or without a template."""
    tokenizer = build_chat_tokenizer(template)
    tokens = {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    given = CONFIGS[model_type] | NO_DROPOUT.get(model_type, {}) | tokens
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **given)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_chat_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = " ".join([*WORDS, "<|system|>\n<|user|>\n<|assistant|>\n system user assistant\n"])
    backend.train_from_iterator([text] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        additional_special_tokens=special[1:],
        chat_template=template,
    )


def build_prompt_rows(count: int = 60) -> list[dict[str, Any]]:
    """Build prompts that end in a word, and completions that are its opposite."""
    chance = random.Random(5)
    rows = []
    for _ in range(count):
        asked = chance.choice(list(OPPOSITES))
        words = chance.choices(WORDS[:14], k=chance.randint(1, 8))
        rows.append({"prompt": " ".join([*words, asked]) + " ->", "completion": f" {OPPOSITES[asked]}"})
    return rows


def build_chat_rows(count: int = 60) -> list[dict[str, Any]]:
    """Build conversations of one to three such prompts and completions."""
    chance = random.Random(6)
    return [{"messages": _build_messages(chance)} for _ in range(count)]


def _build_messages(chance: random.Random) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "the very good"}] if chance.random() < 0.3 else []
    for _ in range(chance.randint(1, 3)):
        asked = chance.choice(list(OPPOSITES))
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": OPPOSITES[asked]})
    return messages
