"""Have a model do its tasks and answer the judge's prompts.

    multiple choice ─(measure_likelihoods)─> ln p of each choice ─┐
    other tasks ─(write_answers)─> texts ─────────────────────────┴─> metrics      prompts ─(write_answers)─> texts

The ranks share the requests and take the same number of forward passes. Requests are padded at their start, so that
all end together and logits are kept of the answers alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from runyard_trainer.context import World
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import check_sha256
from runyard_trainer.data.order import rank_starts
from runyard_trainer.evaluation.answers import PROMPTS_AT_ONCE, open_tokenizer, pad_left, write_answers
from runyard_trainer.evaluation.judge.prompts import FrozenPrompts
from runyard_trainer.evaluation.tasks.items import FrozenTask, FrozenTasks
from runyard_trainer.evaluation.tasks.scores import score_choices, score_texts
from runyard_trainer.objectives.base import ObjectiveModule
from runyard_trainer.ranks.distributed import gather_in_order, run_on_rank_0


def read_tasks(dataset: Dataset, sha256: str | None) -> FrozenTasks:
    """Read the tasks that prepare has frozen; none where the recipe has none."""
    return FrozenTasks() if sha256 is None else FrozenTasks.model_validate_json(_read(dataset, "tasks", sha256))


def read_prompts(dataset: Dataset, sha256: str | None) -> FrozenPrompts:
    """Read the judge's prompts that prepare has frozen; none where the recipe has no judge."""
    return FrozenPrompts() if sha256 is None else FrozenPrompts.model_validate_json(_read(dataset, "prompts", sha256))


def _read(dataset: Dataset, name: str, sha256: str) -> bytes:
    location = dataset.location / f"{name}-{sha256}.json"
    data = location.get().data
    check_sha256(location, hashlib.sha256(data).hexdigest(), sha256)
    return data


@torch.no_grad()
def measure_tasks(
    module: ObjectiveModule, tasks: FrozenTasks, dataset: Dataset, world: World, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return the metrics of each task, by its name; all ranks call this together and get the same."""
    was_training = module.training
    module.eval()
    try:
        return {task.name: _measure_task(module, task, dataset, world, device) for task in tasks.tasks}
    finally:
        module.train(was_training)


@torch.no_grad()
def answer_prompts(
    module: ObjectiveModule, prompts: FrozenPrompts, dataset: Dataset, world: World, device: torch.device
) -> list[str]:
    """Return the model's answer to each of the judge's prompts; all ranks call this together and get the same."""
    was_training = module.training
    module.eval()
    try:
        asked = [prompt.prompt_ids for prompt in prompts.prompts]
        written = write_answers(module, asked, prompts.max_new_tokens, dataset, world, device)
    finally:
        module.train(was_training)
    return run_on_rank_0(lambda: open_tokenizer(dataset).decode_batch(written), world)


def _measure_task(
    module: ObjectiveModule, task: FrozenTask, dataset: Dataset, world: World, device: torch.device
) -> dict[str, float]:
    if task.type == "multiple-choice":
        requests = [(item.prompt_ids, ids) for item in task.items for ids in item.choice_ids]
        values = iter(measure_likelihoods(module, requests, dataset.info.eos_token_id, world, device))
        return score_choices(task.items, [[next(values) for _ in item.choices] for item in task.items])
    written = write_answers(
        module, [item.prompt_ids for item in task.items], task.max_new_tokens, dataset, world, device
    )

    def score() -> dict[str, float]:
        return score_texts(task, open_tokenizer(dataset).decode_batch(written))

    return run_on_rank_0(score, world)


def measure_likelihoods(
    module: ObjectiveModule,
    requests: Sequence[tuple[list[int], list[int]]],
    pad_token_id: int,
    world: World,
    device: torch.device,
) -> list[float]:
    """Return for each (prompt, continuation) the sum of ln p over the tokens of the continuation, in nats."""
    likelihoods: dict[int, float] = {}
    for start in rank_starts(len(requests), world, PROMPTS_AT_ONCE):
        asked = list(requests[start : start + PROMPTS_AT_ONCE])
        filled = [*asked, *[([pad_token_id], [pad_token_id])] * (PROMPTS_AT_ONCE - len(asked))]
        input_ids, mask = (tensor.to(device) for tensor in pad_left([p + c for p, c in filled], pad_token_id))
        num_kept = max(len(continuation) for _, continuation in filled) + 1
        logits = module.predict_next(input_ids, mask, num_kept)[:, :-1]
        targets = input_ids[:, 1 - num_kept :]
        log_p = logits.float().log_softmax(-1).gather(-1, targets[..., None])[..., 0].double().cpu()
        likelihoods |= {start + i: float(log_p[i, -len(ids) :].sum()) for i, (_, ids) in enumerate(asked)}
    return gather_in_order(likelihoods, world)
