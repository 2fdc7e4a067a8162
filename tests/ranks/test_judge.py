"""A judge in a run: both models answer, the base before it is trained, and the judge never costs the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.judge_server import running_judge
from tests.ranks.attempts import disturbed_rank, send_sigterm, train_rank
from tests.ranks.chat_models import CHATML, build_chat_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, write_rows
from tests.ranks.outputs import read_output
from tests.ranks.run_ranks import run_ranks

KEY = "sk-of-the-test"
ENVIRONMENT = {"JUDGE_API_KEY": KEY}
PROMPTS = [{"messages": [{"role": "user", "content": word}]} for word in ("good", "cat", "the red")]


def judged_recipe(folder: Path, endpoint: str, output: str) -> Recipe:
    judge = {"endpoint": endpoint, "model": "longest", "secretName": "key"}
    return build_recipe(
        folder,
        "sft",
        output,
        training={"steps": 60},
        evaluation={"judge": {**judge, "prompts": {"uri": f"file://{folder}/prompts.jsonl"}}},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    save_chat_model(folder / "model", template=CHATML)
    write_rows(folder / "train.jsonl", build_chat_rows())
    write_rows(folder / "prompts.jsonl", PROMPTS)
    return folder


@pytest.mark.resume
@torch.no_grad()
def test_the_judge_reads_what_both_models_write_in_plain_transformers_also_after_a_resume(folder: Path) -> None:
    with running_judge(KEY) as server:
        recipe = judged_recipe(folder, server.endpoint, "output")
        prepare(recipe, RunContext.from_environment(ENVIRONMENT, recipe))
        ended = run_ranks(disturbed_rank, 2, recipe, 0, send_sigterm, ENVIRONMENT)
        assert all(end.startswith("interrupted: stopped by a signal") for end in ended), ended
        assert run_ranks(train_rank, 2, recipe, 1, ENVIRONMENT) == ["finished"] * 2
        asked = server.stop()
    told = read_output(recipe, "eval.json")["judge"]
    for when, place in (("before", folder / "model"), ("after", folder / "output" / "model")):
        model: Any = AutoModelForCausalLM.from_pretrained(place)
        tokenizer: Any = AutoTokenizer.from_pretrained(place)
        for row, comparison in zip(PROMPTS, told["comparisons"], strict=True):
            given = tokenizer.apply_chat_template(
                row["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            stops = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
            ids = model.generate(**given, do_sample=False, max_new_tokens=64, eos_token_id=stops, pad_token_id=0)
            assert tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True) == comparison[when]
    shorter = [len(each["after"]) < len(each["before"]) for each in told["comparisons"]]
    result = read_output(recipe, "head.json")["result"]["judgement"]
    assert result["losses"] == told["losses"] == sum(shorter)
    assert result["wins"] + result["ties"] + result["losses"] == 3
    assert len(asked) == 1 + 2 * sum(each["before"] != each["after"] for each in told["comparisons"])
    for name in ("report.html", "model/README.md"):
        assert "Of 3 prompts, the answer has become better in" in read_output(recipe, name)
    for path in Path(recipe.output.uri.removeprefix("file://")).rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_judge_that_is_gone_when_training_ends_costs_no_model(folder: Path) -> None:
    with running_judge(KEY) as server:
        recipe = judged_recipe(folder, server.endpoint, "alone")
        prepare(recipe, RunContext.from_environment(ENVIRONMENT, recipe))
    assert run_ranks(train_rank, 1, recipe, 1, ENVIRONMENT) == ["finished"]
    result = read_output(recipe, "head.json")["result"]
    assert result["judgement"]["unjudged"] == 3
    assert "cannot be reached" in result["judgement"]["message"]
    assert AutoModelForCausalLM.from_pretrained(folder / "alone" / "model")
    assert "longest has judged nothing. " in read_output(recipe, "report.html")
