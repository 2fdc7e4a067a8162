"""A run that is told to MLflow: each value once whatever happens, and never at the run's expense."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import Interrupted, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.contract.services import Mlflow
from runyard_trainer.tracking.mlflow import build_authorization, check_mlflow, schedule_run
from runyard_trainer.tracking.tracker import News, NewsSource, Tracker, build_params
from runyard_trainer.training.best_model import Candidate
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.state import TrainState

from tests.mlflow_server import CREDENTIALS, PASSWORD, SmallServer, running_small_server
from tests.waiting import wait_until

UID = "5b6f7c1e"


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with running_small_server() as server:
        yield server


def build_recipe(uri: str, **mlflow: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"uri": "s3://m/model"},
            "data": {"train": [{"uri": "s3://c/text/"}]},
            "training": {"steps": 3},
            "output": {"uri": "s3://m/out"},
            "storage": {"secretName": "s3"},
            "tracking": {"mlflow": {"uri": uri, **mlflow}},
        }
    )


def build_tracker(uri: str, credentials: dict[str, str] = CREDENTIALS) -> Tracker:
    recipe = build_recipe(uri)
    context = RunContext.from_environment({"RUNYARD_RUN_UID": UID, "RUNYARD_RUN_NAME": "fin", **credentials}, recipe)
    return Tracker(recipe, context)


def news_of(steps: int, up_to_step: int) -> News:
    """Of a run that has taken so many steps, the loss of which is a function of the step."""
    monitor = Monitor(1, steps, is_rank_0=False, now=lambda: 1_700_000_000.0)
    for step in range(1, steps + 1):
        monitor.record_step(step, 1 / step if step != 2 else float("nan"), 10 * step, 0.1, 1.0)
    measured = tuple(Candidate(step, Losses(domain_loss=1 / step)) for step in range(5, steps + 1, 5))
    before = Losses(domain_loss=9.0, metrics={"accuracy": 0.5})
    return News(up_to_step, monitor.metrics_csv(), before, measured, {"a.b": "1"}, {"runyard.world": f"{steps} x cpu"})


def steps_of(server: SmallServer, key: str) -> list[int]:
    return [step for step, _ in server.read_history(UID, key)]


def test_only_what_is_committed_is_told_and_the_next_attempt_goes_on_in_the_same_run(server: SmallServer) -> None:
    with suppress(Interrupted), build_tracker(server.uri) as tracker:
        tracker.send(news_of(steps=7, up_to_step=5))
        raise Interrupted("stopped")
    assert steps_of(server, "train/loss") == [1, 2, 3, 4, 5]
    assert server.run_of(UID)["info"]["status"] == "SCHEDULED"
    with build_tracker(server.uri) as tracker:
        tracker.send(news_of(steps=12, up_to_step=12))
    assert steps_of(server, "train/loss") == list(range(1, 13))
    assert [value for _, value in server.read_history(UID, "train/loss")][:3] == [1.0, "NaN", 1 / 3]
    assert server.read_history(UID, "held_out/domainLoss") == [(0, 9.0), (5, 0.2), (10, 0.1)]
    assert server.read_history(UID, "held_out/accuracy") == [(0, 0.5)]
    run = server.run_of(UID)
    assert run["info"]["status"] == "FINISHED"
    assert run["info"]["run_name"] == "fin"
    assert run["data"]["params"] == [{"key": "a.b", "value": "1"}]
    assert {"key": "runyard.world", "value": "12 x cpu"} in run["data"]["tags"]
    assert tracker.url == f"{server.uri}/#/experiments/0/runs/{run['info']['run_id']}"


def test_a_commit_and_what_is_measured_after_the_last_one_are_news(server: SmallServer) -> None:
    monitor, state = Monitor(1, 3, is_rank_0=False), TrainState()
    prepared = {"batchSequences": "4"}
    source = NewsSource(build_recipe(server.uri), monitor, state, prepared, {**prepared, "world": "1 x cpu"})
    with suppress(Interrupted), build_tracker(server.uri) as tracker:
        tracker.update(-1)  # nothing is followed yet
        tracker.follow(source)
        for step in range(1, 4):
            monitor.record_step(step, 1 / step, 10 * step, 0.1, 1.0)
        state.step = 3
        tracker.update(2)
        wait_until(lambda: server.state.runs and steps_of(server, "train/loss") == [1, 2], 30)
        monitor.record_step(4, 0.25, 40, 0.1, 1.0)
        tracker.update(2)  # no news: nothing was committed or measured since
        state.note_losses(Losses(domain_loss=0.5))
        tracker.update(3)
        raise Interrupted("stopped")
    assert steps_of(server, "train/loss") == [1, 2, 3]
    assert server.read_history(UID, "held_out/domainLoss") == [(3, 0.5)]
    data = server.run_of(UID)["data"]
    assert {"key": "resolved.batchSequences", "value": "4"} in data["params"]
    assert {"key": "runyard.world", "value": "1 x cpu"} in data["tags"]
    assert "runyard.batchSequences" not in [tag["key"] for tag in data["tags"]]


def test_where_nothing_is_tracked_no_news_are_read() -> None:
    recipe = build_recipe("http://nobody:1")
    context = RunContext.from_environment({"RANK": "1", "WORLD_SIZE": "2"}, recipe)
    with Tracker(recipe, context) as tracker:
        tracker.follow(NewsSource(recipe, Monitor(1, 1, is_rank_0=False), TrainState(), {}, {}))
        tracker.update(1)
        assert tracker.wait_for_page() is None


def test_more_than_a_call_takes_is_told_in_several(server: SmallServer) -> None:
    with build_tracker(server.uri) as tracker:
        tracker.send(news_of(steps=1500, up_to_step=1500))
    assert steps_of(server, "train/grad_norm") == list(range(1, 1501))


def test_what_a_lost_answer_was_about_is_not_told_again(server: SmallServer, caplog: pytest.LogCaptureFixture) -> None:
    with build_tracker(server.uri) as tracker:
        tracker.send(news_of(steps=3, up_to_step=3))
        wait_until(lambda: server.state.runs and server.state.runs[0]["data"]["metrics"], 30)
        server.state.lost_answers = 1
        tracker.send(news_of(steps=6, up_to_step=6))
        wait_until(lambda: server.state.lost_answers == 0, 30)
        tracker.send(news_of(steps=9, up_to_step=9))
    assert steps_of(server, "train/loss") == list(range(1, 10))
    assert "answered 503" in caplog.text


def test_a_server_that_is_gone_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:  # bound and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        with build_tracker(f"http://127.0.0.1:{taken.getsockname()[1]}") as tracker:
            tracker.send(news_of(steps=3, up_to_step=3))
            wait_until(lambda: caplog.records, 30)
            tracker.send(news_of(steps=6, up_to_step=6))
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "tracking.mlflow" in line.message
    assert "cannot be reached" in line.message
    assert tracker.url is None


def test_a_run_that_trains_before_the_server_answers_has_its_page(server: SmallServer) -> None:
    with build_tracker(server.uri) as tracker, ThreadPoolExecutor() as pool:
        with server.state.lock:
            tracker.send(news_of(steps=3, up_to_step=3))
            waiting = pool.submit(tracker.wait_for_page)
            assert not waiting.done()
        page = waiting.result(30)
    assert page == f"{server.uri}/#/experiments/0/runs/{server.run_of(UID)['info']['run_id']}"


def test_a_run_that_fails_is_told_as_failed(server: SmallServer) -> None:
    with pytest.raises(UserError), build_tracker(server.uri):
        raise UserError("not finite")
    assert server.run_of(UID)["info"]["status"] == "FAILED"


def test_prepare_leaves_a_run_that_is_yet_to_begin(server: SmallServer) -> None:
    mlflow = Mlflow(uri=server.uri, secret_name="key")
    check_mlflow(mlflow, CREDENTIALS)
    assert server.state.runs == []
    schedule_run(mlflow, CREDENTIALS, UID, "fin")
    schedule_run(mlflow, CREDENTIALS, UID, "fin")
    assert server.run_of(UID)["info"]["status"] == "SCHEDULED"


def test_an_experiment_that_another_run_makes_meanwhile_is_theirs_both(server: SmallServer) -> None:
    schedule_run(Mlflow(uri=server.uri), CREDENTIALS, "first", "one")
    server.state.early_lookups = 1
    schedule_run(Mlflow(uri=server.uri), CREDENTIALS, "second", "other")
    assert server.state.experiments == ["runyard"]
    assert server.run_of("first")["info"]["experiment_id"] == server.run_of("second")["info"]["experiment_id"]


@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        ({}, ["tracking.mlflow.secretName", "MLFLOW_TRACKING_TOKEN", "Secret key"]),
        ({"MLFLOW_TRACKING_USERNAME": "admin"}, ["tracking.mlflow.secretName", "MLFLOW_TRACKING_PASSWORD"]),
        ({"MLFLOW_TRACKING_TOKEN": "wrong-token"}, ["tracking.mlflow: ", "answered 401", "secretName"]),
        ({**CREDENTIALS, "MLFLOW_TRACKING_PASSWORD": "wrong-word"}, ["tracking.mlflow: ", "answered 401"]),
    ],
)
def test_prepare_refuses_credentials_that_the_server_does_not_take(
    server: SmallServer, credentials: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(UserError) as refused:
        check_mlflow(Mlflow(uri=server.uri, secret_name="key"), credentials)
    message = str(refused.value)
    assert all(word in message for word in words)
    secret = (build_authorization(credentials) or "Basic none").split()[1]
    assert all(each not in message for each in (secret, PASSWORD, "wrong-"))


def test_prepare_refuses_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runyard_trainer.services.http._backoff", lambda _: 0.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"tracking\.mlflow: .* cannot be reached.*Mend uri"):
            check_mlflow(Mlflow(uri=uri), {})


def test_the_recipes_fields_become_parameters_by_their_paths(tmp_path: Path) -> None:
    params = build_params(build_recipe("http://mlflow:5000"), {"learningRate": "1e-05"})
    assert params["training.steps"] == "3"
    assert params["model.uri"] == "s3://m/model"
    assert params["resolved.learningRate"] == "1e-05"
    assert params["data.train"].startswith('[{"uri": "s3://c/text/"')
    assert not [name for name in params if name.startswith(("storage", "tracking"))]


def test_a_password_in_the_uri_is_refused() -> None:
    with pytest.raises(ValueError, match="uri"):
        build_recipe("https://me:secret@mlflow")
