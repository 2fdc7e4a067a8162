"""Runs that are measured and exported untrained, and what a process with transformers alone finds in an export."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses, Result
from runyard_trainer.evaluation.evaluate import evaluate_model, open_held_out
from runyard_trainer.export.export import export_run
from runyard_trainer.export.report import TrainedRun
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.storage.open import open_store
from runyard_trainer.training.sharded_model import load_model

from tests.ranks.outputs import open_prepared

BuildPrepared = Callable[[dict[str, Any]], tuple[Recipe, Path]]
"""What the fixture `build_prepared` is."""

SEQUENCE_LENGTH = 48
METRICS_CSV = (
    "step,tokens,loss,learning_rate,grad_norm,tokens_per_second,time\n"
    "1,100,6.0,0.1,1.5,,2026-01-01T00:00:00Z\n"
    "2,200,5.5,0.1,1.25,100.0,2026-01-01T00:00:01Z\n"
)

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "llama whose embeddings are tied": {**LLAMA, "tie_word_embeddings": True},
    "llama with a head of its own": {**LLAMA, "tie_word_embeddings": False},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}

REMEASURE = """
import json, math, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, evaluation = sys.argv[1], json.load(open(sys.argv[2]))
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
losses = {}
for name, held_out in evaluation["sets"].items():
    path = held_out["text"].removeprefix("file://")
    texts = [json.loads(line)["text"] for line in open(path, encoding="utf-8")]
    documents = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    assert len(documents) == held_out["documents"]
    assert sum(map(len, documents)) == held_out["tokens"]
    assert sum(len(text.encode()) for text in texts) == held_out["bytes"]
    text_tokens = held_out["tokens"] - len(documents)
    assert abs(held_out["tokensPerWord"] - text_tokens / sum(len(text.split()) for text in texts)) < 1e-3
    assert abs(held_out["bytesPerToken"] - held_out["bytes"] / text_tokens) < 1e-3
    nats, predicted, place = 0.0, 0, 0
    for document in documents:  # a window's share of a document is a text of its own
        while document:
            room = evaluation["sequenceLength"] - place % evaluation["sequenceLength"]
            piece, document = torch.tensor([document[:room]]), document[room:]
            place += piece.shape[1]
            with torch.no_grad():
                logits = model(piece).logits.double()
            nats -= logits.log_softmax(-1)[0, :-1].gather(1, piece[0, 1:, None]).sum().item()
            predicted += piece.shape[1] - 1
    loss = nats / predicted
    losses[name + "Loss"] = loss
    losses[name + "BitsPerByte"] = loss * held_out["tokens"] / (math.log(2) * held_out["bytes"])
assert not any(name.startswith("runyard") for name in sys.modules)
print(json.dumps(losses))
"""


def build_recipe(folder: Path, config: dict[str, Any], name: str = "run", **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"scratch": {"config": config, "tokenizer": {"train": {"vocabSize": 320}}}},
            "data": {"train": [{"uri": f"file://{folder}/train.jsonl"}], "validation": {"fraction": 0.3}, **data},
            "training": {"steps": 2, "sequenceLength": SEQUENCE_LENGTH, "batchSequences": 4},
            "evaluation": {"general": [{"uri": f"file://{folder}/general.jsonl"}]},
            "output": {"uri": f"file://{folder}/{name}"},
        }
    )


def build_context(recipe: Recipe, folder: Path, world: World) -> RunContext:
    environment = {"TMPDIR": str(folder / "tmp"), "RUNYARD_RUN_NAME": "tiny"}
    ranks = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": world.rank, "LOCAL_WORLD_SIZE": world.size}
    return RunContext.from_environment({**environment, **{name: str(rank) for name, rank in ranks.items()}}, recipe)


def write_corpus(folder: Path) -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "Ünïcödé", "😀", "\u2028", "end"]
    for name, count in (("train", 40), ("general", 7)):
        texts = [" ".join(words[(i * i + j * (i + 2)) % len(words)] for j in range(5 + 3 * i)) for i in range(count)]
        lines = (json.dumps({"text": f"{name} {text}"}, ensure_ascii=False) for text in texts)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure_and_export(world: World, recipe_json: str, folder: Path, micro_batch: int = 2) -> tuple[Losses, Result]:
    recipe = Recipe.model_validate_json(recipe_json)
    context, dataset = build_context(recipe, folder, world), open_prepared(recipe)
    objective = build_objective(recipe, dataset.info)
    module = load_model(recipe, objective, dataset.info, context, torch.device("cpu"))
    module.train()
    held_out = open_held_out(dataset, objective, recipe)
    losses = evaluate_model(module, held_out, world, micro_batch, torch.device("cpu"))
    assert module.training
    trained = TrainedRun(None, losses, 2, 300, "fp32", METRICS_CSV, {"microBatch": str(micro_batch)})
    output = open_store(recipe.output.uri, recipe.storage)
    return losses, export_run(module.model, trained, recipe, context, dataset, output)


def remeasure(folder: Path) -> dict[str, float]:
    """Return the losses that a process with transformers alone finds in what lies at `folder`."""
    command = [sys.executable, "-I", "-c", REMEASURE, str(folder / "model"), str(folder / "eval.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
