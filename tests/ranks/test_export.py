"""What a finished run leaves: measured and exported by real gloo ranks, opened by a process without Runyard."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.services import Storage
from runyard_trainer.evaluation.evaluate import evaluate_model, open_held_out
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.prepare import prepare
from runyard_trainer.training.sharded_model import load_model
from safetensors.torch import load_file

from tests.ranks.exports import (
    ARCHITECTURES,
    LLAMA,
    METRICS_CSV,
    BuildPrepared,
    build_context,
    build_recipe,
    measure_and_export,
    remeasure,
    write_corpus,
)
from tests.ranks.outputs import open_prepared
from tests.ranks.run_ranks import run_ranks


def measure(world: World, recipe_json: str, folder: Path, micro_batch: int) -> Losses:
    recipe = Recipe.model_validate_json(recipe_json)
    dataset = open_prepared(recipe)
    objective = build_objective(recipe, dataset.info)
    context = build_context(recipe, folder, world)
    module = load_model(recipe, objective, dataset.info, context, torch.device("cpu"))
    held_out = open_held_out(dataset, objective, recipe)
    return evaluate_model(module, held_out, world, micro_batch, torch.device("cpu"))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_process_without_our_package_finds_the_loss_that_eval_json_claims(
    build_prepared: BuildPrepared, architecture: str
) -> None:
    recipe, folder = build_prepared(ARCHITECTURES[architecture])
    (losses, _), *_ = run_ranks(measure_and_export, 3, recipe.to_json(), folder)
    claimed = json.loads((folder / "run/eval.json").read_text())["after"]
    assert claimed == losses.model_dump(by_alias=True, exclude_none=True)
    assert remeasure(folder / "run") == pytest.approx(claimed, abs=1e-4)


@pytest.fixture(scope="module")
def tied_run(build_prepared: BuildPrepared) -> tuple[Recipe, Path]:
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
