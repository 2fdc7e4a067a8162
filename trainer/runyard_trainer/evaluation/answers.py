"""Let a model write answers, and compare those to held-out records with the answers that the records have.

    held-out records ─(choose_records)─> prompts ─(write_answers)─> texts ─(score_answers)─> exactMatch, ROUGE

At most MAX_RECORDS records are asked, spread evenly over the stream, each for the last answer that is trained on. A
record whose prompt leaves no room for an answer is skipped. An answer ends where the model ends it, or after
MAX_ANSWER_TOKENS tokens (after half a sequence where that is shorter). ROUGE is computed by rouge-score without
stemming: it reads letters a to z and digits only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from tokenizers import Tokenizer
from torch import Tensor

from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.order import rank_starts
from runyard_trainer.objectives.base import ObjectiveModule
from runyard_trainer.ranks.distributed import gather_in_order, run_on_rank_0

MAX_RECORDS = 64
MAX_ANSWER_TOKENS = 128

PROMPTS_AT_ONCE = 8
"""Prompts in a forward pass of one rank."""

_ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class HeldOutRecord:
    """The last answer of a held-out record, and everything before it."""

    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True)
class HeldOutRecords:
    """The held-out records that a model is to answer."""

    records: list[HeldOutRecord]
    max_new_tokens: int
    """Tokens that an answer may have."""
    dataset: Dataset


def choose_records(dataset: Dataset, recipe: Recipe) -> HeldOutRecords:
    """Choose the records of the stream `validation` that a model is asked."""
    max_new_tokens = min(MAX_ANSWER_TOKENS, recipe.training.sequence_length // 2)
    max_prompt_tokens = recipe.training.sequence_length - max_new_tokens
    return HeldOutRecords(select_records(dataset.examples("validation"), max_prompt_tokens), max_new_tokens, dataset)


def select_records(examples: Examples, max_prompt_tokens: int) -> list[HeldOutRecord]:
    """Take at most MAX_RECORDS, spread evenly over the examples, without those whose prompt is too long."""
    count = min(len(examples), MAX_RECORDS)
    records = []
    for number in range(count):
        example = examples[number * len(examples) // count]
        ids, (start, end) = example["input_ids"].tolist(), example["spans"][-2:].tolist()
        if start <= max_prompt_tokens:
            records.append(HeldOutRecord(ids[:start], ids[start:end]))
    return records


@torch.no_grad()
def measure_answers(
    module: ObjectiveModule, held_out: HeldOutRecords, world: World, device: torch.device
) -> dict[str, float]:
    """Return `exactMatch` and ROUGE of the answers, each from 0 to 1; nothing where no record can be asked.

    All ranks call this together, with a module that is in evaluation mode, and get the same values.
    """
    if not held_out.records:
        return {}
    prompts = [record.prompt_ids for record in held_out.records]
    written = write_answers(module, prompts, held_out.max_new_tokens, held_out.dataset, world, device)

    def score() -> dict[str, float]:
        tokenizer = open_tokenizer(held_out.dataset)
        wanted = tokenizer.decode_batch([record.answer_ids for record in held_out.records])
        pairs = zip(wanted, tokenizer.decode_batch(written), strict=True)
        return score_answers([(want.strip(), text.strip()) for want, text in pairs])

    return run_on_rank_0(score, world)


def write_answers(
    module: ObjectiveModule,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    dataset: Dataset,
    world: World,
    device: torch.device,
) -> list[list[int]]:
    """Have the model answer each prompt greedily; all ranks call this together and get all answers, as token ids."""
    info = dataset.info
    stop_token_ids = info.stop_token_ids or [info.eos_token_id]
    written: dict[int, list[int]] = {}
    for start in rank_starts(len(prompts), world, PROMPTS_AT_ONCE):
        asked = list(prompts[start : start + PROMPTS_AT_ONCE])
        fillers = [[info.eos_token_id]] * (PROMPTS_AT_ONCE - len(asked))
        input_ids, mask = pad_left([*asked, *fillers], info.eos_token_id)
        tokens = module.write(
            input_ids.to(device),
            mask.to(device),
            stop_token_ids=stop_token_ids,
            pad_token_id=info.eos_token_id,
            max_new_tokens=max_new_tokens,
        )
        written |= {start + i: cut_at_stop(tokens[i].tolist(), stop_token_ids) for i in range(len(asked))}
    return gather_in_order(written, world)


def open_tokenizer(dataset: Dataset) -> Tokenizer:
    """Open the tokenizer that lies beside the prepared data."""
    return Tokenizer.from_buffer((dataset.location / "tokenizer" / "tokenizer.json").get().data)


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, int64 [prompts, longest], padded at the start so that all end together."""
    length = max(map(len, prompts))
    ids = [[pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def cut_at_stop(tokens: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """Return the tokens before the first one that ends an answer."""
    ends = (place for place, token in enumerate(tokens) if token in stop_token_ids)
    return list(tokens[: next(ends, len(tokens))])


def score_answers(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return the mean scores over pairs of the wanted text and the written one."""
    from rouge_score.rouge_scorer import RougeScorer  # deferred: it takes a second that other objectives do not need

    scorer = RougeScorer(list(_ROUGE))
    scores = [scorer.score(want, text) for want, text in pairs]
    rouge = {name: fmean(score[name].fmeasure for score in scores) for name in _ROUGE}
    return {"exactMatch": fmean(want == text for want, text in pairs), **rouge}
