"""A run that starts from another one: when it waits, what it takes, and when it gives up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, Phase, TrainingRunStatus
from runyard.decide.manifests import resolve_recipe
from runyard.decide.plan import plan
from runyard.decide.values import Observed, Plan, Run
from runyard_trainer.contract.reports import CommittedCheckpoint, ModelFolder, Result

from tests.builders import NOW, SETTINGS, make_run, make_spec, make_status

DIGEST = "sha256:" + "0" * 64
RESULT = Result(uri="s3://models/base/model", report="s3://models/base/report.html", digest=DIGEST)
CHECKPOINT = CommittedCheckpoint(
    uri="s3://models/base/checkpoints/step-00000040-e1", step=40, time="2026-05-04T11:00:00Z"
)


def run_from(checkpoint: str = "best", status: TrainingRunStatus | None = None) -> Run:
    return make_run(status, model={"run": {"name": "base", "checkpoint": checkpoint}})


def source(*holding: ConditionType, **status: Any) -> Run:
    return replace(make_run(make_status(*holding, **status)), name="base", uid="uid-base")


def decide(run: Run, source: Run | None) -> Plan:
    return plan(run, Observed(source=source), SETTINGS, NOW)


def ready(planned: Plan) -> tuple[Phase | None, str, str]:
    condition = next(each for each in planned.status.conditions if each.type == "Ready")
    return planned.status.phase, condition.reason, condition.message


WAITS = {
    "there is no such run": (None, "RunNotFound", "there is no TrainingRun base in namespace team-a"),
    "it has just been made": (source(), "WaitingForRun", "run base, which is Pending"),
    "it trains": (source(phase=Phase.RUNNING), "WaitingForRun", "run base, which is Running"),
}


@pytest.mark.parametrize("case", WAITS)
def test_a_run_waits_while(case: str) -> None:
    seen, reason, words = WAITS[case]
    planned = decide(run_from(), seen)
    assert ready(planned)[:2] == (Phase.WAITING, reason)
    assert words in ready(planned)[2]
    assert planned.actions == ()
    assert planned.requeue_at is not None
    assert planned.requeue_at > NOW


def test_a_run_fails_with_the_one_that_it_waits_for() -> None:
    planned = decide(run_from(), source(ConditionType.FAILED, phase=Phase.FAILED))
    assert ready(planned)[:2] == (Phase.FAILED, "SourceRunFailed")
    assert "base has failed and leaves no model: it is so" in ready(planned)[2]


TAKEN = {
    "best": ModelFolder(run="base", uid="uid-base", uri=RESULT.uri, digest=DIGEST),
    "last": ModelFolder(run="base", uid="uid-base", uri=RESULT.uri, step=40),
    "20": ModelFolder(run="base", uid="uid-base", uri=RESULT.uri, step=20),
}


@pytest.mark.parametrize("checkpoint", TAKEN)
def test_what_a_finished_run_has_left_is_taken_once_and_nothing_starts_before_that_is_stored(checkpoint: str) -> None:
    finished = source(ConditionType.SUCCEEDED, phase=Phase.SUCCEEDED, result=RESULT, checkpoint=CHECKPOINT)
    planned = decide(run_from(checkpoint), finished)
    assert (planned.status.source, planned.actions) == (TAKEN[checkpoint], ())
    stored = run_from(checkpoint, planned.status)
    again = decide(stored, None)
    assert again.status.phase == Phase.PREPARING
    assert again.status.source == TAKEN[checkpoint]
    assert len(again.actions) == 2


def test_the_recipe_names_the_folder_and_its_digest_and_no_run() -> None:
    run = run_from(status=TrainingRunStatus(source=TAKEN["best"]))
    model = resolve_recipe(run, run.spec or make_spec(), SETTINGS).model
    assert (model.uri, model.digest, model.step, model.run) == (RESULT.uri, DIGEST, None, None)


def test_tokens_that_are_to_be_added_to_the_model_stay_in_the_recipe() -> None:
    added = {"extendVocabulary": {"tokens": 100}}
    run = make_run(TrainingRunStatus(source=TAKEN["best"]), model={"run": {"name": "base"}} | added)
    model = resolve_recipe(run, run.spec or make_spec(), SETTINGS).model
    assert model.model_dump(by_alias=True, exclude_none=True) == {"uri": RESULT.uri, "digest": DIGEST} | added


def test_a_suspended_run_does_not_wait() -> None:
    run = make_run(model={"run": {"name": "base"}}, suspend=True)
    assert ready(decide(run, None))[0] == Phase.SUSPENDED
