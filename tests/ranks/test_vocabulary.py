"""Runs that add tokens to the model's tokenizer: what the model as it came loses, resuming, and what is exported."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo, read_resolved
from runyard_trainer.storage.open import open_store
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.ranks.attempts import check_interrupted, train_rank
from tests.ranks.exports import remeasure
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import WORDS, save_language_model

TERMS = ["estoppel", "subrogation", "appellant", "usufruct", "chattel", "Fahrlässigkeit", "mortgagee"]
NEW_TOKENS = 24


def prepare_terms(folder: Path, output: str = "output", model_type: str = "llama", **parts: Any) -> Recipe:
    """Prepare a run on text with terms that the model's tokenizer cuts into letters."""
    if not (folder / "model").exists():
        chance = random.Random(5)
        save_language_model(folder / "model", model_type)
        texts = [" ".join(chance.choices(WORDS[:9] + TERMS, k=60)) for _ in range(90)]
        write_rows(folder / "train.jsonl", ({"text": text} for text in texts))
        general = [" ".join(chance.choices(WORDS, k=40)) for _ in range(8)]
        write_rows(folder / "general.jsonl", ({"text": text} for text in general))
    model = {"extendVocabulary": {"tokens": NEW_TOKENS}}
    evaluation = {"general": [{"uri": f"file://{folder}/general.jsonl"}]}
    recipe = build_recipe(folder, "causal-lm", output, model=model, evaluation=evaluation, **parts)
    prepare_run(recipe)
    return recipe


def read_info(recipe: Recipe) -> DatasetInfo:
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    return DatasetInfo.model_validate_json(open_store(resolved.dataset, recipe.storage).get().data)


def remeasure_base(folder: Path, recipe: Recipe) -> dict[str, float]:
    """Return the losses that a process with transformers alone finds for the base, with its own tokenizer."""
    told, info = read_output(recipe, "eval.json"), read_info(recipe)
    for name, stream in (("domain", "validation"), ("general", "general")):
        held_out = told["sets"][name]
        held_out["tokens"] = info.base_streams[stream].tokens
        for measure in ("TokensPerWord", "BytesPerToken"):
            held_out[measure[0].lower() + measure[1:]] = held_out[f"base{measure}"]
    (folder / "came").mkdir()
    shutil.copytree(folder / "model", folder / "came" / "model")
    (folder / "came" / "eval.json").write_text(json.dumps(told))
    return remeasure(folder / "came")


def check_terms_interrupted(folder: Path, whole: Recipe, **parts: Any) -> None:
    broken = prepare_terms(folder, "broken", **parts)
    check_interrupted(broken, whole, "model/model.safetensors", "model/tokenizer.json", "model/config.json")
    before = [read_output(recipe, "eval.json")["before"] for recipe in (broken, whole)]
    assert before[0] == before[1]


def test_a_fresh_process_finds_the_losses_of_the_model_and_of_the_one_that_came_each_with_its_tokenizer(
    tmp_path: Path,
) -> None:
    recipe = prepare_terms(tmp_path)
    info = read_info(recipe)
    assert len(info.new_tokens) == NEW_TOKENS
    assert read_resolved(open_store(recipe.output.uri, recipe.storage)).resolved["newTokens"] == str(NEW_TOKENS)
    domain = info.streams["validation"].fertility
    assert domain is not None
    assert domain.base_bytes_per_token is not None
    assert domain.bytes_per_token > 1.5 * domain.base_bytes_per_token
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    told = read_output(recipe, "eval.json")
    assert remeasure(tmp_path / "output") == pytest.approx(told["after"], abs=1e-4)
    came, before = remeasure_base(tmp_path, recipe), told["before"]
    assert before["domainBitsPerByte"] == pytest.approx(came["domainBitsPerByte"], abs=1e-4)
    assert before["generalBitsPerByte"] == pytest.approx(came["generalBitsPerByte"], abs=1e-4)
    tokens = told["ownTokenizer"]["sets"]["domain"]
    spread = came["domainLoss"] * tokens["ownTrainedTokens"] / tokens["trainedTokens"]
    assert before["domainLoss"] == pytest.approx(spread, abs=1e-4)
    assert told["after"]["domainBitsPerByte"] < before["domainBitsPerByte"]


@pytest.mark.full
def test_a_full_run_that_is_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = prepare_terms(tmp_path)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    check_terms_interrupted(tmp_path, recipe)


def test_an_adapter_brings_the_rows_of_new_tokens_and_opens_beside_the_base_and_merged(tmp_path: Path) -> None:
    method = {"type": "lora", "rank": 4}
    recipe = prepare_terms(tmp_path, model_type="gpt2", method=method)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    told = read_output(recipe, "eval.json")
    assert remeasure(tmp_path / "output") == pytest.approx(told["after"], abs=1e-4)
    start: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    num_rows = read_info(recipe).vocab_size
    assert f"base.resize_token_embeddings({num_rows})" in read_output(recipe, "adapter/README.md")
    start.resize_token_embeddings(num_rows)
    adapted = PeftModel.from_pretrained(start, tmp_path / "output/adapter").eval()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "output/model").eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "output/adapter")(" ".join(TERMS), return_tensors="pt")["input_ids"]
    assert int(ids.max()) >= num_rows - NEW_TOKENS
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    base, weights = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "output/model"))
    rows, positions = "transformer.wte.weight", "transformer.wpe.weight"
    assert not torch.equal(weights[rows][: len(base[rows])], base[rows])
    assert torch.equal(weights[positions], base[positions]), "they have no new row, and are not trained"
    check_terms_interrupted(tmp_path, recipe, model_type="gpt2", method=method)


def build_answers() -> list[dict[str, Any]]:
    """Build prompts that end in a term, and completions that are the term before it."""
    chance = random.Random(5)
    rows = []
    for _ in range(60):
        asked = chance.randrange(len(TERMS))
        prompt = " ".join([*chance.choices(WORDS[:9], k=4), TERMS[asked]])
        rows.append({"prompt": f"{prompt} ->", "completion": f" {TERMS[asked - 1]}"})
    return rows


def test_the_model_that_came_answers_tasks_and_records_as_it_does_where_nothing_is_added(tmp_path: Path) -> None:
    """Asked in its own tokens, it gives the same answers and the same losses, which are spread over fewer tokens."""
    save_language_model(tmp_path / "model", "llama")
    rows = build_answers()
    write_rows(tmp_path / "train.jsonl", rows)
    chance = random.Random(6)
    asked = [{"prompt": row["prompt"], "label": row["completion"].strip()} for row in rows[:24]]
    write_rows(tmp_path / "labels.jsonl", asked[:4])
    choices = ({"choices": chance.sample(TERMS, k=3), "answer": chance.randrange(3)} for _ in asked)
    write_rows(
        tmp_path / "choices.jsonl", ({"prompt": row["prompt"]} | each for row, each in zip(asked, choices, strict=True))
    )
    kinds = {"labels": "classification", "choices": "multiple-choice"}
    tasks = [
        {"name": name, "type": kind, "test": {"uri": f"file://{tmp_path}/{name}.jsonl"}} for name, kind in kinds.items()
    ]
    told = {}
    for output, model in (("plain", {}), ("extended", {"extendVocabulary": {"tokens": 40}})):
        parts: dict[str, Any] = {"training": {"steps": 1}, "evaluation": {"tasks": tasks}, "model": model}
        recipe = build_recipe(tmp_path, "sft", output, **parts)
        prepare_run(recipe)
        assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
        told[output] = read_output(recipe, "eval.json")
    plain, extended = told["plain"]["before"], told["extended"]["before"]
    tokens = told["extended"]["ownTokenizer"]["sets"]["domain"]
    assert tokens["trainedTokens"] < 0.7 * tokens["ownTrainedTokens"]
    spread = plain["domainLoss"] * tokens["ownTrainedTokens"] / tokens["trainedTokens"]
    assert extended["domainLoss"] == pytest.approx(spread, rel=1e-9)
    assert extended["tasks"] == plain["tasks"]
    assert 0 < plain["tasks"]["choices"]["accuracyPerByte"] < 1
    assert extended["metrics"] == {name: value for name, value in plain["metrics"].items() if name != "tokenAccuracy"}
    assert told["extended"]["after"]["metrics"].keys() == plain["metrics"].keys()
