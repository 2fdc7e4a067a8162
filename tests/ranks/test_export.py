"""What a finished run leaves: measured and exported by real gloo ranks, opened by a process without Runyard."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses, Result
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset, read_resolved
from runyard_trainer.evaluation.evaluate import evaluate_model, open_held_out
from runyard_trainer.export.export import export_run
from runyard_trainer.export.report import TrainedRun
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.prepare import prepare
from runyard_trainer.storage.open import open_store
from runyard_trainer.training.sharded_model import load_model
from safetensors.torch import load_file

from tests.ranks.run_ranks import run_ranks

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


def open_prepared(recipe: Recipe, folder: Path) -> Dataset:
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    return open_dataset(open_store(resolved.dataset, recipe.storage), folder / "shards", resolved.sha256)


def measure_and_export(world: World, recipe_json: str, folder: Path, micro_batch: int = 2) -> tuple[Losses, Result]:
    recipe = Recipe.model_validate_json(recipe_json)
    context, dataset = build_context(recipe, folder, world), open_prepared(recipe, folder)
    objective = build_objective(recipe, dataset.info)
    module = load_model(recipe, objective, dataset.info, context, torch.device("cpu"))
    module.train()
    held_out = open_held_out(dataset, objective, recipe)
    losses = evaluate_model(module, held_out, world, micro_batch, torch.device("cpu"))
    assert module.training
    trained = TrainedRun(None, losses, 2, 300, "fp32", METRICS_CSV, {"microBatch": str(micro_batch)})
    output = open_store(recipe.output.uri, recipe.storage)
    return losses, export_run(module.model, trained, recipe, context, dataset, output)


def measure(world: World, recipe_json: str, folder: Path, micro_batch: int) -> Losses:
    recipe = Recipe.model_validate_json(recipe_json)
    dataset = open_prepared(recipe, folder)
    objective = build_objective(recipe, dataset.info)
    context = build_context(recipe, folder, world)
    module = load_model(recipe, objective, dataset.info, context, torch.device("cpu"))
    held_out = open_held_out(dataset, objective, recipe)
    return evaluate_model(module, held_out, world, micro_batch, torch.device("cpu"))


@pytest.fixture(scope="module")
def build_prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], tuple[Recipe, Path]]:
    """Prepares a tiny run of a configuration in a folder of its own."""

    def build(config: dict[str, Any]) -> tuple[Recipe, Path]:
        folder = tmp_path_factory.mktemp("run")
        write_corpus(folder)
        recipe = build_recipe(folder, config)
        prepare(recipe, build_context(recipe, folder, World()))
        return recipe, folder

    return build


def remeasure(folder: Path) -> dict[str, float]:
    """The losses that a process with transformers alone finds in what lies at `folder`."""
    command = [sys.executable, "-I", "-c", REMEASURE, str(folder / "model"), str(folder / "eval.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


Prepared = Callable[[dict[str, Any]], tuple[Recipe, Path]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_process_without_our_package_finds_the_loss_that_eval_json_claims(
    build_prepared: Prepared, architecture: str
) -> None:
    recipe, folder = build_prepared(ARCHITECTURES[architecture])
    (losses, _), *_ = run_ranks(measure_and_export, 3, recipe.to_json(), folder)
    claimed = json.loads((folder / "run/eval.json").read_text())["after"]
    assert claimed == losses.model_dump(by_alias=True, exclude_none=True)
    assert remeasure(folder / "run") == pytest.approx(claimed, abs=1e-4)


@pytest.fixture(scope="module")
def tied_run(build_prepared: Prepared) -> tuple[Recipe, Path]:
    return build_prepared(ARCHITECTURES["llama whose embeddings are tied"])


def test_every_rank_gets_the_same_losses_and_they_are_the_same_bits_each_time(tied_run: tuple[Recipe, Path]) -> None:
    recipe, folder = tied_run
    first = run_ranks(measure, 3, recipe.to_json(), folder, 2)
    again = run_ranks(measure, 3, recipe.to_json(), folder, 2)
    assert first == again == [first[0]] * 3


def test_any_number_of_ranks_and_micro_batch_measures_every_window_once(tied_run: tuple[Recipe, Path]) -> None:
    recipe, folder = tied_run
    alone = run_ranks(measure, 1, recipe.to_json(), folder, 1)[0].model_dump(exclude_none=True)
    for size, micro_batch in ((1, 5), (2, 1), (4, 3)):
        together = run_ranks(measure, size, recipe.to_json(), folder, micro_batch)[0].model_dump(exclude_none=True)
        assert together == pytest.approx(alone, rel=1e-6), f"{size} ranks, micro-batch {micro_batch}"


def test_an_export_made_again_over_one_that_was_killed_is_the_same(tied_run: tuple[Recipe, Path]) -> None:
    recipe, folder = tied_run
    first = run_ranks(measure_and_export, 1, recipe.to_json(), folder)[0][1]
    model = folder / "run/model"
    names = {path.name for path in model.iterdir()}
    (model / "model-00001-of-00002.safetensors").write_bytes(b"left by an export of another shape")
    (model / "config.json").write_bytes(b"")
    again = run_ranks(measure_and_export, 2, recipe.to_json(), folder)[0][1]
    assert {path.name for path in model.iterdir()} == names
    assert (first.uri, first.report) == (f"file://{folder}/run/model", f"file://{folder}/run/report.html")
    assert again.digest == first.digest


def test_everything_that_was_promised_lies_at_the_output(tied_run: tuple[Recipe, Path]) -> None:
    recipe, folder = tied_run
    result = run_ranks(measure_and_export, 2, recipe.to_json(), folder)[1][1]
    output = folder / "run"
    assert {path.name for path in output.iterdir()} >= {"eval.json", "lineage.json", "metrics.csv", "report.html"}
    assert {path.name for path in (output / "model").iterdir()} >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (output / "metrics.csv").read_text() == METRICS_CSV
    assert json.loads((output / "model/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    assert result.digest.startswith("sha256:")
    num_parameters = sum(tensor.numel() for tensor in load_file(output / "model/model.safetensors").values())
    assert f"{num_parameters:,} parameters" in (output / "model/README.md").read_text()


def test_lineage_names_the_run_and_chains_to_the_model_it_began_from(tied_run: tuple[Recipe, Path]) -> None:
    recipe, folder = tied_run
    run_ranks(measure_and_export, 1, recipe.to_json(), folder)
    values = {
        **build_recipe(folder, LLAMA, "next").model_dump(by_alias=True, exclude_none=True),
        "model": {"uri": f"file://{folder}/run/model"},
    }
    following = Recipe.model_validate({**values, "storage": Storage(secret_name="not-for-lineage")})
    prepare(following, build_context(following, folder, World()))
    run_ranks(measure_and_export, 2, following.to_json(), folder)
    lineage = json.loads((folder / "next/lineage.json").read_text())
    first = json.loads((folder / "run/lineage.json").read_text())
    assert lineage["run"]["name"] == "tiny"
    assert lineage["run"]["processes"] == 2
    assert lineage["source"] == {"uri": f"file://{folder}/run/model", "lineage": first}
    assert first["source"] is None
    assert lineage["dataset"]["uri"].endswith("/dataset.json")
    assert lineage["versions"]["torch"] == version("torch")
    assert "not-for-lineage" not in json.dumps(lineage)


def test_a_run_with_nothing_held_out_is_exported_without_losses(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    recipe = build_recipe(tmp_path, LLAMA, validation={"fraction": 0})
    recipe = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update={"general": []})})
    prepare(recipe, build_context(recipe, tmp_path, World()))
    (losses, result), *_ = run_ranks(measure_and_export, 2, recipe.to_json(), tmp_path)
    assert losses == result.after == Losses()
    assert json.loads((tmp_path / "run/eval.json").read_text())["sets"] == {}
    assert "Nothing was held out" in (tmp_path / "run/report.html").read_text()
