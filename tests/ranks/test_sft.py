"""Supervised fine-tuning: tokens, spans and losses against TRL's, and models that answer without our package."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, cast

import pytest
import torch
from rouge_score.rouge_scorer import RougeScorer
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.records.packing import PackedRecords
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.ranks.attempts import train_and_compare, train_rank
from tests.ranks.chat_models import CHATML, build_chat_rows, build_prompt_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import open_prepared, read_held_out, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.trl_reference import build_trl_trainer, train_with_trl

CASES = [
    ("llama", "prompt-completion"),
    ("llama", "messages"),
    ("gpt_neox", "prompt-completion"),
    ("gpt2", "messages"),
    ("qwen2", "messages"),
]


@pytest.mark.parametrize(("model_type", "record_format"), CASES)
def test_20_steps_lose_what_trl_loses_to_1e_5_on_the_same_tokens_and_spans(
    tmp_path: Path, model_type: str, record_format: str
) -> None:
    is_chat = record_format == "messages"
    rows = build_chat_rows() if is_chat else build_prompt_rows()
    save_chat_model(tmp_path / "model", model_type, CHATML if is_chat else None)
    write_rows(tmp_path / "train.jsonl", rows)
    recipe = build_recipe(
        tmp_path,
        "sft",
        data={"validation": {"fraction": 0}, "deduplicate": "none"},
        evaluation={"before": False},
        training={"batchSequences": 4},
    )
    prepare_run(recipe)
    trainer = build_trl_trainer(recipe, rows, tmp_path)
    samples = cast(PackedRecords, kind_of(recipe, "train").open_samples(open_prepared(recipe), "train", recipe))
    for i, theirs in enumerate(cast(Any, trainer.train_dataset)):
        ours = samples.examples[i]
        assert ours["input_ids"].tolist() == theirs["input_ids"]
        assert read_labels(ours) == theirs["labels"]

    order = Order(len(samples), 0, 0.0, recipe.sequences_per_step, recipe.training.seed)
    places = [[order.sample(step, i).index for i in range(order.batch)] for step in range(20)]
    want = train_with_trl(trainer, [[row for i in step for row in samples.sequences[i]] for step in places])
    losses = train_and_compare(recipe, want)
    assert losses[-1] < losses[0] - 0.5


def read_labels(example: dict[str, Any]) -> list[int]:
    labels = [IGNORED] * len(example["input_ids"])
    for start, end in example["spans"].reshape(-1, 2).tolist():
        labels[start:end] = example["input_ids"][start:end].tolist()
    return labels


@pytest.mark.parametrize(
    ("record_format", "method"), [("messages", "full"), ("prompt-completion", "full"), ("messages", "lora")]
)
def test_the_model_opens_without_our_package_and_answers_as_eval_json_says(
    tmp_path: Path, record_format: str, method: str
) -> None:
    is_chat = record_format == "messages"
    save_chat_model(tmp_path / "model", "llama", CHATML if is_chat else None)
    write_rows(tmp_path / "train.jsonl", build_chat_rows() if is_chat else build_prompt_rows())
    training = {"steps": 120, "sequenceLength": 128, "batchSequences": 2}
    recipe = build_recipe(tmp_path, "sft", training=training, method={"type": method})
    prepare_run(recipe)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2

    folder = tmp_path / "output" / "model"
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    told = read_output(recipe, "eval.json")
    rows = read_held_out(recipe)
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert model.generation_config.eos_token_id == (ends if is_chat else ends[0])
    exact, rouge = score_alone(model, tokenizer, rows)
    loss, accuracy = measure_alone(model, tokenizer, rows)
    assert told["after"]["domainLoss"] == pytest.approx(loss, rel=1e-5)
    assert told["after"]["metrics"] == {
        "tokenAccuracy": pytest.approx(accuracy),
        "exactMatch": pytest.approx(exact),
        **{name: pytest.approx(value) for name, value in rouge.items()},
    }
    assert told["before"]["metrics"]["rouge1"] < rouge["rouge1"] > 0.2
    assert "AutoModelForCausalLM.from_pretrained" in (folder / "README.md").read_text()


def score_alone(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Return exact match and ROUGE of what the model generates by itself, one question at a time."""
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    exact, scores = [], []
    for row in rows:
        if "messages" in row:
            given = tokenizer.apply_chat_template(
                row["messages"][:-1], add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            want = row["messages"][-1]["content"]
        else:
            given, want = tokenizer(row["prompt"], return_tensors="pt"), row["completion"].strip()
        written = model.generate(**given, do_sample=False, max_new_tokens=64, pad_token_id=0)
        text = tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        exact.append(text == want)
        scores.append(scorer.score(want, text))
    return fmean(exact), {name: fmean(score[name].fmeasure for score in scores) for name in scores[0]}


@torch.no_grad()
def measure_alone(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Return mean loss and accuracy over the tokens of all answers, each record by itself."""
    losses, right = [], []
    for row in rows:
        if "messages" in row:
            encoded = tokenizer.apply_chat_template(
                row["messages"], return_dict=True, return_assistant_tokens_mask=True
            )
            ids, mask = encoded["input_ids"], encoded["assistant_masks"]
        else:
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
            ids, mask = prompt + answer, [0] * len(prompt) + [1] * len(answer)
        logits, targets = model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:])
        trained = torch.tensor(mask[1:]).bool()
        losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none")[trained].tolist()
        right += (logits.argmax(-1) == targets)[trained].tolist()
    return fmean(losses), fmean(right)
