"""Let a model write the answers to held-out records itself, and compare them with those that the records have.

    held-out records ─(some)─> prompts ─(greedy)─> answers ─> exact match and ROUGE against the records' own

Asked are at most MAX_QUESTIONS records, spread evenly over the stream, each for the last answer that is trained on; one
whose prompt leaves no room for an answer is passed over. An answer ends where the model ends it, or after
MAX_ANSWER_TOKENS tokens (half a sequence where that is less). ROUGE is rouge-score's, without stemming; it knows
letters a to z and digits only.
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

MAX_QUESTIONS = 64
MAX_ANSWER_TOKENS = 128

_QUESTIONS_AT_ONCE = 8
_ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Question:
    """What the model is given, and what it should write."""

    prompt_ids: list[int]
    answer_ids: list[int]


@torch.no_grad()
def measure_answers(
    module: ObjectiveModule, dataset: Dataset, recipe: Recipe, world: World, device: torch.device
) -> dict[str, float]:
    """`exactMatch` and ROUGE of the answers to held-out records, each from 0 to 1; nothing where none can be asked.

    All ranks call this together, with a module that is in evaluation mode, and get the same values.
    """
    max_new_tokens = min(MAX_ANSWER_TOKENS, recipe.training.sequence_length // 2)
    max_prompt_tokens = recipe.training.sequence_length - max_new_tokens
    questions = choose_questions(dataset.examples("validation"), max_prompt_tokens)
    if not questions:
        return {}
    eos_token_id, stop_token_ids = dataset.info.eos_token_id, dataset.info.stop_token_ids
    written: dict[int, list[int]] = {}
    for start in rank_starts(len(questions), world, _QUESTIONS_AT_ONCE):
        asked = questions[start : start + _QUESTIONS_AT_ONCE]
        prompts = [question.prompt_ids for question in asked]
        fillers = [[eos_token_id]] * (_QUESTIONS_AT_ONCE - len(prompts))
        input_ids, attention_mask = pad_left([*prompts, *fillers], eos_token_id)
        tokens = module.write(
            input_ids.to(device),
            attention_mask.to(device),
            stop_token_ids=stop_token_ids,
            pad_token_id=eos_token_id,
            max_new_tokens=max_new_tokens,
        )
        written |= {start + i: until_stop(tokens[i].tolist(), stop_token_ids) for i in range(len(asked))}
    answers = gather_in_order(written, world)

    def score() -> dict[str, float]:
        tokenizer = Tokenizer.from_buffer((dataset.location / "tokenizer" / "tokenizer.json").get().data)
        wanted = [question.answer_ids for question in questions]
        pairs = zip(tokenizer.decode_batch(wanted), tokenizer.decode_batch(answers), strict=True)
        return score_answers([(want.strip(), text.strip()) for want, text in pairs])

    return run_on_rank_0(score, world)


def choose_questions(examples: Examples, max_prompt_tokens: int) -> list[Question]:
    """See the module."""
    count = min(len(examples), MAX_QUESTIONS)
    questions = []
    for number in range(count):
        example = examples[number * len(examples) // count]
        ids, (start, end) = example["input_ids"].tolist(), example["spans"][-2:].tolist()
        if start <= max_prompt_tokens:
            questions.append(Question(ids[:start], ids[start:end]))
    return questions


def pad_left(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, int64 [prompts, longest], so that all of them end together."""
    length = max(map(len, prompts))
    ids = [[pad_token_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def until_stop(tokens: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """What comes before the first token that ends an answer."""
    ends = (place for place, token in enumerate(tokens) if token in stop_token_ids)
    return list(tokens[: next(ends, len(tokens))])


def score_answers(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Means over pairs of the text that is wanted and the one that was written."""
    from rouge_score.rouge_scorer import RougeScorer  # deferred: it takes a second that other objectives do not need

    scorer = RougeScorer(list(_ROUGE))
    scores = [scorer.score(want, text) for want, text in pairs]
    rouge = {name: fmean(score[name].fmeasure for score in scores) for name in _ROUGE}
    return {"exactMatch": fmean(want == text for want, text in pairs), **rouge}
