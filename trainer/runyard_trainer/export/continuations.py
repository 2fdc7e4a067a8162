"""Continuations for the report: beginnings of a few held-out texts, and what the exported model writes after them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from runyard_trainer.models.generation import read_ends

MAX_PARAMETERS = 300_000_000
"""A larger model writes nothing: it would do so on rank 0's CPU while every GPU waits."""

NUM_PROMPTS = 3
PROMPT_CHARACTERS = 120
NEW_TOKENS = 48


@dataclass(frozen=True)
class Continuation:
    """A prompt, and what the model wrote after it."""

    prompt: str
    continuation: str


def choose_prompts(texts: Iterable[str]) -> list[str]:
    """Return the beginnings of the first few texts that are long enough, cut at a word."""
    long_enough = (text.strip() for text in texts if len(text.strip()) >= 2 * PROMPT_CHARACTERS)
    return [_cut_at_word(text) for text in islice(long_enough, NUM_PROMPTS)]


def write_continuations(model_folder: Path, prompts: list[str]) -> list[Continuation]:
    """Return what the exported model writes after each prompt: greedy, on CPU, so the same each time.

    Repetition is discouraged: a small model would say the same for ever.
    """
    if not prompts:
        return []
    # ended as for a user; of what else the folder may ask for, some would draw, and some transformers does not open
    settings = GenerationConfig(eos_token_id=read_ends(model_folder))  # type: ignore[no-untyped-call]  # it leaves it so
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, local_files_only=True, generation_config=settings)
    model.eval()
    if model.num_parameters() > MAX_PARAMETERS:
        return []
    tokenizer = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    return [Continuation(prompt, _continue(model, tokenizer, prompt)) for prompt in prompts]


@torch.no_grad()
def _continue(model: Any, tokenizer: Any, prompt: str) -> str:
    longest = getattr(model.config, "max_position_embeddings", None) or 4096
    num_new = min(NEW_TOKENS, longest // 2)
    prompt_ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"][:, num_new - longest :]
    written = model.generate(
        prompt_ids,
        attention_mask=torch.ones_like(prompt_ids),
        max_new_tokens=num_new,
        do_sample=False,
        repetition_penalty=1.2,
        pad_token_id=tokenizer.eos_token_id,
    )
    text: str = tokenizer.decode(written[0, prompt_ids.shape[1] :], skip_special_tokens=True)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip()


def _cut_at_word(text: str) -> str:
    head = text[:PROMPT_CHARACTERS]
    return head[: max(head.rfind(" "), head.rfind("\n"), PROMPT_CHARACTERS // 2)]
