"""Build the questions of a recipe's tasks, with shots, from their records.

    test, shots ─(parse)─> questions ─(draw shots by hash)─> prompts ─(drop what does not fit)─> items

The shots of a question are a function of the seed, the task's name, and the places of question and shot. Shots are
separated by an empty line; a space stands before an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.evaluation import Task
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.sources.listing import list_source
from runyard_trainer.data.sources.reading import read_records
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer
from runyard_trainer.evaluation.tasks.items import FrozenTask, FrozenTasks, Item
from runyard_trainer.evaluation.tasks.kinds import KINDS, Question, TaskKind
from runyard_trainer.evaluation.tasks.presets import PRESETS

_SPARE_TOKENS = 8
"""Tokens that a model may write beyond those of the longest answer."""


def build_tasks(recipe: Recipe, tokenizer: DocumentTokenizer, max_tokens: int) -> FrozenTasks:
    """Build all tasks of a recipe.

    Args:
        recipe: has the tasks, the seed and how to reach storage.
        tokenizer: the model's.
        max_tokens: tokens that the model can read and write together.

    Raises:
        UserError: DATA_ERROR, for what is wrong with the files.
    """
    return FrozenTasks(
        tasks=[
            _build_task(task, f"evaluation.tasks[{i}]", recipe, tokenizer, max_tokens)
            for i, task in enumerate(recipe.evaluation.tasks)
        ]
    )


def _build_task(task: Task, path: str, recipe: Recipe, tokenizer: DocumentTokenizer, max_tokens: int) -> FrozenTask:
    kind = PRESETS[task.preset] if task.preset is not None else KINDS[task.type or ""]
    questions = _read_questions(task.test.uri, f"{path}.test.uri", kind, recipe)
    shots = _read_questions(task.shots.uri, f"{path}.shots.uri", kind, recipe) if task.shots is not None else []
    count = task.shots.count if task.shots is not None else 0
    labels = list(kind.labels) or sorted({each.answer for each in [*questions, *shots]})
    room = 0
    if kind.type != "multiple-choice":
        answers = [f" {each}" for each in (labels if kind.type == "classification" else [q.answer for q in questions])]
        room = _SPARE_TOKENS + max(
            tokenizer.base_length(encoding.ids) for encoding in tokenizer.encode_without_special(answers)
        )
    items, num_dropped = [], 0
    for place, question in enumerate(questions):
        drawn = draw_shots(question, shots, count, f"{recipe.training.seed}/{task.name}/{place}")
        for first in range(len(drawn) + 1):
            item = build_item(question, drawn[first:], tokenizer)
            longest = max([room, *map(tokenizer.base_length, item.choice_ids)])
            if tokenizer.base_length(item.prompt_ids) + longest <= max_tokens:
                items.append(item)
                num_dropped += first
                break
    if not items:
        raise UserError(
            f"{path}.test.uri: no question of {task.test.uri} fits the model's {max_tokens} tokens with its answer: "
            "give shorter ones",
            ExitCode.DATA_ERROR,
        )
    return FrozenTask(
        name=task.name,
        type=kind.type,
        metric=kind.metric,
        labels=labels if kind.type == "classification" else [],
        max_new_tokens=room,
        items=items,
        dropped_shots=num_dropped,
        too_long=len(questions) - len(items),
    )


def _read_questions(uri: str, field: str, kind: TaskKind, recipe: Recipe) -> list[Question]:
    files = list_source(DataSource(uri=uri), 0, recipe.storage, field)
    questions = [question for asked in read_records(files, kind.parse) for question in asked]
    if not questions:
        raise UserError(f"{field}: {uri} has no records", ExitCode.DATA_ERROR)
    return questions


def draw_shots(question: Question, shots: Sequence[Question], count: int, seed: str) -> list[Question]:
    """Draw the shots with the least hashes among those of the question's group with another prompt."""
    others = {
        place: shot
        for place, shot in enumerate(shots)
        if shot.prompt != question.prompt and shot.group == question.group
    }
    drawn = sorted(others, key=lambda place: hashlib.sha256(f"{seed}/{place}".encode()).digest())
    return [others[place] for place in drawn[:count]]


def build_item(question: Question, shots: Sequence[Question], tokenizer: DocumentTokenizer) -> Item:
    """Build an item. The tokens of a choice are those it adds to the prompt's, as in lm-evaluation-harness."""
    prompt = "\n\n".join([*(f"{shot.prompt} {shot.answer}" for shot in shots), question.prompt])
    texts = [prompt, *(f"{prompt} {choice}" for choice in question.choices)]
    prompt_ids, *whole = [list(encoding.ids) for encoding in tokenizer.encode_without_special(texts)]
    return Item(
        prompt=prompt,
        prompt_ids=prompt_ids,
        choices=question.choices,
        choice_ids=[ids[len(prompt_ids) :] for ids in whole],
        target=question.target,
        tokens=question.tokens,
        group=question.group,
    )
