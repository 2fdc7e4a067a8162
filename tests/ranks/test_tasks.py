"""In-context tasks: what eval.json says of them is what the exported model does in plain transformers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.evaluation.task_answers import measure_likelihoods
from runyard_trainer.objectives.base import Traits
from runyard_trainer.objectives.causal_lm import CausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.ranks.attempts import train_rank
from tests.ranks.chat_models import OPPOSITES, build_prompt_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import read_output
from tests.ranks.run_ranks import run_ranks

TASKS = {
    "opposites": "multiple-choice",
    "labels": "classification",
    "names": "entities",
}
PLACES = {"cat": "PER", "tree": "LOC"}


def build_task_rows(task: str, count: int) -> list[dict[str, Any]]:
    chance = random.Random(task)
    return [_build_row(task, chance) for _ in range(count)]


def _build_row(task: str, chance: random.Random) -> dict[str, Any]:
    asked = chance.choice(list(OPPOSITES))
    prompt = f"{' '.join(chance.choices(['the', 'a', 'very'], k=3))} {asked} ->"
    if task == "labels":
        return {"prompt": prompt, "label": OPPOSITES[asked]}
    if task == "names":
        words = chance.choices(["the", "cat", "sees", "tree"], k=4)
        return {"tokens": words, "tags": [f"B-{PLACES[word]}" if word in PLACES else "O" for word in words]}
    choices = chance.sample(["bad", "old small", "dög", "not the tree"], k=4)
    return {"prompt": prompt, "choices": choices, "answer": chance.randrange(4)}


def run_tasks(folder: Path, output: str, size: int, steps: int = 40) -> tuple[Recipe, dict[str, Any]]:
    recipe = build_recipe(
        folder,
        "sft",
        output,
        training={"steps": steps},
        evaluation={
            "tasks": [
                {
                    "name": name,
                    "type": kind,
                    "test": {"uri": f"file://{folder}/{name}.jsonl"},
                    "shots": {"uri": f"file://{folder}/{name}-shots.jsonl", "count": 2},
                }
                for name, kind in TASKS.items()
            ]
        },
    )
    prepare_run(recipe)
    assert run_ranks(train_rank, size, recipe) == ["finished"] * size
    return recipe, read_output(recipe, "eval.json")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tasks")
    save_chat_model(folder / "model")
    write_rows(folder / "train.jsonl", build_prompt_rows())
    for name in TASKS:
        write_rows(folder / f"{name}.jsonl", build_task_rows(name, 21))
        write_rows(folder / f"{name}-shots.jsonl", build_task_rows(f"{name}", 9))
    return folder, *run_tasks(folder, "output", 2)


def read_frozen(told: dict[str, Any], name: str) -> dict[str, Any]:
    frozen = json.loads(Path(told["tasks"][name]["file"].removeprefix("file://")).read_text())
    return next(task for task in frozen["tasks"] if task["name"] == name)


@torch.no_grad()
def test_multiple_choice_is_what_plain_transformers_finds_before_and_after(
    ran: tuple[Path, Recipe, dict[str, Any]],
) -> None:
    folder, _, told = ran
    rows = read_frozen(told, "opposites")["items"]
    for when, place in (("before", folder / "model"), ("after", folder / "output" / "model")):
        model: Any = AutoModelForCausalLM.from_pretrained(place)
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
        right: dict[str, list[bool]] = {"accuracy": [], "accuracyPerCharacter": [], "accuracyPerByte": []}
        for row in rows:
            values = [measure_alone(model, tokenizer, row["prompt"], f" {choice}") for choice in row["choices"]]
            by_length = {
                "accuracy": values,
                "accuracyPerCharacter": [v / len(c) for v, c in zip(values, row["choices"], strict=True)],
                "accuracyPerByte": [v / len(c.encode()) for v, c in zip(values, row["choices"], strict=True)],
            }
            for name, each in by_length.items():
                right[name].append(each.index(max(each)) == row["target"])
        assert told[when]["tasks"]["opposites"] == {name: pytest.approx(fmean(each)) for name, each in right.items()}


def measure_alone(model: Any, tokenizer: Any, prompt: str, choice: str) -> float:
    """Return the log-likelihood of one request by itself, as lm-evaluation-harness defines it."""
    given, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + choice))
    log_p = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(log_p[i - 1, whole[i]]) for i in range(len(given), len(whole)))


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@torch.no_grad()
def test_log_likelihoods_of_padded_batches_are_those_of_single_requests_to_1e_4(
    tmp_path: Path, model_type: str
) -> None:
    save_chat_model(tmp_path, model_type)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    asked = [(row["prompt"], f" {choice}") for row in build_task_rows("opposites", 5) for choice in row["choices"]] + [
        ("the very small cat sees the old dog and then likes the red tree ->", " a good house but not bad")
    ]
    requests = []
    for prompt, choice in asked:
        given, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + choice))
        requests.append((given, whole[len(given) :]))
    module = CausalLM(model, Traits(stochastic=False))
    found = measure_likelihoods(module, requests, 0, World(0, 1, 0, 1), torch.device("cpu"))
    assert found == pytest.approx([measure_alone(model, tokenizer, *each) for each in asked], abs=1e-4)


def test_one_rank_finds_what_two_find_and_the_result_quotes_one_metric_a_task(
    ran: tuple[Path, Recipe, dict[str, Any]],
) -> None:
    folder, recipe, told = ran
    _, alone = run_tasks(folder, "alone", 1)
    for when in ("before", "after"):
        assert alone[when]["tasks"] == told[when]["tasks"]
    assert alone["tasks"] == told["tasks"]
    result = read_output(recipe, "head.json")["result"]
    assert {name: list(metrics) for name, metrics in result["after"]["tasks"].items()} == {
        "opposites": ["accuracy"],
        "labels": ["accuracy"],
        "names": ["entityF1"],
    }
    assert read_output(recipe, "lineage.json")["dataset"]["tasks"] in told["tasks"]["labels"]["file"]
    for name in ("report.html", "model/README.md"):
        assert "Task opposites" in read_output(recipe, name)
        assert "share without an answer" in read_output(recipe, name)


def test_what_is_written_is_what_generate_writes(ran: tuple[Path, Recipe, dict[str, Any]]) -> None:
    folder, _, told = ran
    task = read_frozen(told, "labels")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "output" / "model")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "output" / "model")
    right, missing = [], []
    for item in task["items"]:
        given = tokenizer(item["prompt"], return_tensors="pt", add_special_tokens=False)
        written = model.generate(**given, do_sample=False, max_new_tokens=task["maxNewTokens"], pad_token_id=0)
        text = tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
        words = text.strip().split("\n")[0].replace(",", " ").split() if text.strip() else []
        found = next((word for word in words if word in task["labels"]), None)
        right.append(found == item["target"])
        missing.append(found is None)
    assert told["after"]["tasks"]["labels"]["accuracy"] == pytest.approx(fmean(right))
    assert told["after"]["tasks"]["labels"]["missing"] == pytest.approx(fmean(missing))
