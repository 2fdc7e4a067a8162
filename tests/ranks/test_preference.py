"""Preference: the loss against TRL's DPOTrainer, ln 2 at the start, metrics, resuming and exports."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from datasets import Dataset as TrlDataset
from peft import LoraConfig, PeftModel
from runyard_trainer.contract.recipe import Recipe
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.ranks.attempts import check_interrupted, train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.outputs import read_held_out, read_losses, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import WORDS, save_language_model
from tests.ranks.transformers_reference import ComparedTrainer, trainer_arguments


def prepare_preference(folder: Path, model_type: str = "llama", output: str = "output", **parts: Any) -> Recipe:
    if not (folder / "model").exists():
        save_language_model(folder / "model", model_type)
        write_rows(folder / "train.jsonl", build_pairs())
        write_rows(folder / "general.jsonl", ({"text": row["chosen"] * 8} for row in build_pairs()[:8]))
    evaluation = {"general": [{"uri": f"file://{folder}/general.jsonl"}]}
    recipe = build_recipe(folder, "preference", output, evaluation=evaluation, **parts)
    prepare_run(recipe)
    return recipe


def build_pairs() -> list[dict[str, Any]]:
    """Build pairs whose better answers say good, and whose worse ones say bad."""
    chance = random.Random(5)
    rows = []
    for _ in range(100):
        prompt, chosen, rejected = (chance.choices(WORDS[:16], k=chance.randint(2, 9)) for _ in range(3))
        answers = [" " + " ".join([*chosen, "good"]), " " + " ".join([*rejected, "bad"])]
        rows.append({"prompt": " ".join(prompt), "chosen": answers[0], "rejected": answers[1]})
    return rows


# ----------------------------------------------------------------------------------------------------- against TRL's


class InOrderTrainer(ComparedTrainer, DPOTrainer):  # type: ignore[misc]  # TRL leaves it untyped
    """TRL's trainer, which takes the pairs as they come and remembers the loss of each step."""


@pytest.mark.parametrize(
    ("model_type", "method"),
    [("llama", {}), ("gpt2", {}), ("llama", {"type": "lora", "rank": 4})],
    ids=["llama", "gpt2", "llama with lora"],
)
def test_20_steps_lose_what_trl_loses_to_1e_5_from_ln_2_on(
    tmp_path: Path, model_type: str, method: dict[str, Any]
) -> None:
    recipe = prepare_preference(tmp_path, model_type, method=method)
    want = train_with_trl(recipe, read_pairs(recipe), tmp_path)
    losses = train_and_compare(recipe, want)
    assert losses[0] == pytest.approx(math.log(2), rel=1e-7)
    assert losses[-1] < losses[0] - 0.03


def read_pairs(recipe: Recipe) -> list[dict[str, str]]:
    """Return the pairs of all steps, in their order: as text, for TRL tokenizes by itself."""
    steps, _ = read_steps(recipe)
    tokenizer = AutoTokenizer.from_pretrained(str(recipe.model.uri).removeprefix("file://"))
    rows = {row["prompt"] + row["chosen"]: row for row in build_pairs()}
    chosen = [sample["input_ids"][: sample["spans"][0]] for step in steps for sample in step]
    texts = (tokenizer.decode(ids, skip_special_tokens=True) for ids in chosen)
    return [rows[text] for text in texts]


def train_with_trl(recipe: Recipe, pairs: list[dict[str, str]], folder: Path) -> list[float]:
    """Return the loss of each step, each batch in one piece."""
    torch.set_num_threads(1)
    training = recipe.training
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(training.seed)
    trainer = InOrderTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        train_dataset=TrlDataset.from_list(pairs),
        peft_config=adapter if recipe.method.is_adapter else None,
        args=DPOConfig(
            output_dir=str(folder / "theirs"),
            bf16=False,
            seed=training.seed,
            beta=recipe.beta,
            max_length=training.sequence_length,
            gradient_checkpointing=False,
            per_device_train_batch_size=recipe.sequences_per_step,
            **trainer_arguments(recipe),
        ),
    )
    return trainer.train_for_losses()


# ------------------------------------------------------------------------------------------------------------ metrics


def test_the_metrics_are_those_of_the_exported_model_beside_the_one_it_came_from(tmp_path: Path) -> None:
    recipe = prepare_preference(tmp_path)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    model, start = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("output/model", "model"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output/model")
    evaluation = read_output(recipe, "eval.json")
    margins, divergence, count = [], 0.0, 0
    for row in read_held_out(recipe):
        gains = []
        for answer in (row["chosen"], row["rejected"]):
            start_at = len(tokenizer(row["prompt"])["input_ids"])
            ids = torch.tensor([*tokenizer(row["prompt"] + answer)["input_ids"], tokenizer.eos_token_id])[None]
            with torch.no_grad():
                ours, theirs = (F.log_softmax(each(ids).logits[0, start_at - 1 : -1], -1) for each in (model, start))
            places = ids[0, start_at:, None]
            gains.append(float((ours.gather(1, places) - theirs.gather(1, places)).sum()))
            divergence += float((ours.exp() * (ours - theirs)).sum())
            count += len(places)
        margins.append(0.1 * (gains[0] - gains[1]))
    after, before = evaluation["after"], evaluation["before"]
    want = torch.tensor(margins)
    assert after["domainLoss"] == pytest.approx(float(-F.logsigmoid(want).mean()), rel=1e-4)
    assert after["metrics"]["margin"] == pytest.approx(float(want.mean()), rel=1e-3)
    assert after["metrics"]["pairAccuracy"] == pytest.approx(float((want > 0).float().mean()))
    assert after["metrics"]["kl"] == pytest.approx(divergence / count, rel=1e-3)
    assert before["domainLoss"] == pytest.approx(math.log(2), rel=1e-7)
    assert before["metrics"] == {"pairAccuracy": 0.0, "margin": 0.0, "kl": 0.0}
    assert before["generalLoss"] != after["generalLoss"]
    assert after["generalBitsPerByte"] > 0


@pytest.mark.resume
def test_dora_starts_at_ln_2_and_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    method = {"type": "dora", "rank": 4}
    whole = prepare_preference(tmp_path, method=method)
    assert run_ranks(train_rank, 2, whole) == ["finished"] * 2
    assert read_losses(whole)[0] == pytest.approx(math.log(2), rel=1e-5)
    check_interrupted(prepare_preference(tmp_path, output="broken", method=method), whole, "model/model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert PeftModel.from_pretrained(base, tmp_path / "output/adapter")


@pytest.mark.resume
def test_a_full_run_that_is_interrupted_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = prepare_preference(tmp_path)
    assert run_ranks(train_rank, 2, whole) == ["finished"] * 2
    check_interrupted(prepare_preference(tmp_path, output="broken"), whole, "model/model.safetensors")
