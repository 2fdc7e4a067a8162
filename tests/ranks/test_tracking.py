"""A tracked run that dies midway and is taken up again: MLflow has of each step what metrics.csv has, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare

from tests.mlflow_server import CREDENTIALS, PASSWORD, TrackingServer, running_real_server, running_small_server
from tests.ranks.attempts import die, disturbed_rank, train_rank
from tests.ranks.chat_models import CHATML, build_chat_rows, save_chat_model
from tests.ranks.fine_tuning import build_recipe, write_rows
from tests.ranks.outputs import read_metrics, read_output
from tests.ranks.run_ranks import end_ranks, run_ranks


def tracked_recipe(folder: Path, uri: str, output: str) -> Recipe:
    return build_recipe(
        folder,
        "sft",
        output,
        training={"steps": 60},
        evaluation={"everySteps": 15},
        tracking={"mlflow": {"uri": uri, "secretName": "key"}},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracking")
    save_chat_model(folder / "model", template=CHATML)
    write_rows(folder / "train.jsonl", build_chat_rows())
    return folder


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.full)])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrackingServer]:
    with running_small_server() if request.param == "small" else running_real_server(tmp_path) as server:
        yield server


def test_mlflow_has_each_step_of_metrics_csv_once_also_after_a_rank_was_killed(
    folder: Path, server: TrackingServer, tmp_path: Path
) -> None:
    recipe = tracked_recipe(folder, server.uri, tmp_path.name)
    context = RunContext.from_environment(CREDENTIALS, recipe)
    prepare(recipe, context)
    assert server.run_of(context.run_uid)["info"]["status"] == "SCHEDULED"
    assert end_ranks(disturbed_rank, 1, recipe, 0, die, CREDENTIALS)[0].error == "exit code -9"
    assert run_ranks(train_rank, 2, recipe, 1, CREDENTIALS) == ["finished"] * 2

    rows = read_metrics(recipe)
    for column in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
        want = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        assert server.read_history(context.run_uid, f"train/{column}") == want
    evaluation = read_output(recipe, "eval.json")
    measured = [{"step": 0, **evaluation["before"]}, *evaluation["measured"]]
    want = [(each["step"], each["domainLoss"]) for each in measured]
    assert server.read_history(context.run_uid, "held_out/domainLoss") == want

    run = server.run_of(context.run_uid)
    assert run["info"]["status"] == "FINISHED"
    assert {"key": "training.steps", "value": "60"} in run["data"]["params"]
    page = read_output(recipe, "head.json")["result"]["tracking"]
    assert page == f"{server.uri}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    assert page in read_output(recipe, "report.html")
    for path in Path(recipe.output.uri.removeprefix("file://")).rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


def test_a_server_that_is_gone_when_training_begins_costs_nothing(folder: Path) -> None:
    with running_small_server() as server:
        recipe = tracked_recipe(folder, server.uri, "alone")
        prepare(recipe, RunContext.from_environment(CREDENTIALS, recipe))
    assert run_ranks(train_rank, 1, recipe, 1, CREDENTIALS) == ["finished"]
    assert read_output(recipe, "head.json")["result"]["tracking"] is None
    assert len(read_output(recipe, "metrics.csv").splitlines()) == 61


@pytest.mark.full
def test_the_real_server_refuses_who_it_does_not_know_and_who_may_only_read(folder: Path, tmp_path: Path) -> None:
    with running_real_server(tmp_path) as server:
        recipe = tracked_recipe(folder, server.uri, "refused")
        server.ask("users/create", body={"username": "reader", "password": "reads-and-no-more"})
        server.ask("experiments/create", body={"name": "runyard"})
        for name, word, words in (
            ("reader", "not-this-one", "answered 401"),
            ("reader", "reads-and-no-more", "answered 403"),
        ):
            credentials = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": word}
            with pytest.raises(UserError, match=words) as refused:
                prepare(recipe, RunContext.from_environment(credentials, recipe))
            assert "tracking.mlflow: " in str(refused.value)
            assert word not in str(refused.value)
