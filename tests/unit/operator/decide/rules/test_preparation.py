"""The rules of preparation: when the prepare Job is made, left alone, made anew, and when it fails the run."""

from __future__ import annotations

import pytest
from runyard.api.trainingrun import ConditionType, LastFailure, Phase
from runyard.decide.manifests import build_prepare_job, build_service, build_train_job
from runyard.decide.values import Create
from runyard_trainer.contract.reports import DataSummary, PodReport
from runyard_trainer.contract.times import format_time

from tests.builders import (
    SETTINGS,
    at,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_prepare_job,
    make_run,
    make_spec,
    make_status,
    prepared_status,
)
from tests.unit.operator.decisions import (
    CONFIG_MAP,
    condition,
    created,
    decide,
    deleted,
    holding,
    message_of,
)


def test_a_new_run_gets_its_recipe_and_a_prepare_job_and_is_not_ready_from_first_sight() -> None:
    run = make_run()
    planned = decide(run)
    assert planned.actions == (Create(CONFIG_MAP), Create(build_prepare_job(run, make_spec(), SETTINGS)))
    assert (planned.status.phase, holding(planned)) == (Phase.PREPARING, {"Reconciling"})
    assert (planned.status.mode, planned.status.gpus, planned.status.observed_generation) == (
        "ContinuedPreTraining",
        8,
        1,
    )


def test_a_prepare_job_at_work_is_left_alone() -> None:
    job = make_prepare_job()
    planned = decide(make_run(), jobs=[job], pods=[make_pod(job)])
    assert (planned.actions, planned.status.phase) == ((), Phase.PREPARING)


def test_a_finished_prepare_job_is_remembered_with_what_it_found_and_the_first_attempt_starts() -> None:
    data = DataSummary(manifest="s3://b/dataset.json", documents=3, tokens=99)
    report = PodReport(reason="Completed", data=data, resolved={"vocabSize": "400"})
    job = make_prepare_job("Complete")
    run = make_run()
    planned = decide(run, jobs=[job], pods=[make_dead_pod(job, code=0, report=report)])
    train_job = build_train_job(run, make_spec(), SETTINGS, 1)
    assert planned.actions == (Create(CONFIG_MAP), Create(build_service(run)), Create(train_job))
    assert (planned.status.data, planned.status.resolved) == (data, {"vocabSize": "400"})
    assert (planned.status.phase, planned.status.attempt, holding(planned)) == (
        Phase.STARTING,
        1,
        {"Reconciling", "Prepared", "Admitted"},
    )


def test_what_was_prepared_once_is_not_prepared_again_when_the_job_is_gone() -> None:
    assert created(decide(make_run(prepared_status()))) == ["cpt-a1"]


@pytest.mark.parametrize("code", [64, 65, 66, 67, 70, 78])
def test_a_fatal_exit_of_prepare_fails_the_run_before_the_job_says_so(code: int) -> None:
    job = make_prepare_job()
    report = PodReport(reason="DataError", message="b.jsonl:3: no JSON", exit_code=code, log_tail="last line")
    planned = decide(make_run(), jobs=[job], pods=[make_dead_pod(job, code=code, report=report)])
    assert (planned.status.phase, holding(planned)) == (Phase.FAILED, {"Stalled", "Failed"})
    assert planned.status.last_failure == LastFailure(
        node="node-0",
        exit_code=code,
        reason="DataError",
        message="b.jsonl:3: no JSON",
        log_tail="last line",
        time=format_time(at(-1)),
    )
    assert "b.jsonl:3: no JSON" in condition(planned, ConditionType.FAILED).message
    assert [event.type for event in planned.events] == ["Warning", "Warning"]


def test_a_prepare_pod_that_may_do_better_next_time_is_the_jobs_to_repeat() -> None:
    job = make_prepare_job()
    planned = decide(make_run(), jobs=[job], pods=[make_dead_pod(job, code=1)])
    assert (planned.status.phase, planned.actions) == (Phase.PREPARING, ())
    assert "tried again" in message_of(planned)


def test_a_prepare_job_that_gave_up_fails_the_run_with_its_last_pods_words() -> None:
    job = make_prepare_job("Failed")
    first = make_dead_pod(job, code=1, report=PodReport(reason="Error", message="first"), creationTimestamp="1")
    last = make_dead_pod(job, code=1, report=PodReport(reason="Error", message="last"), creationTimestamp="2")
    planned = decide(make_run(), jobs=[job], pods=[last, first])
    assert planned.status.phase is Phase.FAILED
    assert planned.status.last_failure is not None
    assert planned.status.last_failure.message == "last"


ASKED = {"resources": {"memory": "32Gi"}}


def test_preparation_starts_again_when_what_it_may_take_has_changed() -> None:
    preparing = make_status(phase=Phase.PREPARING)
    job = make_prepare_job()
    pods = [make_dead_pod(job, code=137, reason="OOMKilled")]
    assert decide(make_run(preparing), jobs=[job], pods=pods).actions == ()
    planned = decide(run := make_run(preparing, prepare=ASKED), jobs=[job], pods=pods)
    assert (deleted(planned), created(planned)) == (["cpt-prepare"], [])
    assert "spec.prepare has changed" in message_of(planned)
    anew = next(each.manifest for each in decide(run).actions if isinstance(each, Create) and "spec" in each.manifest)
    amounts = anew["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert amounts["limits"]["memory"] == "32Gi"


def test_a_prepare_job_that_a_policy_or_another_release_has_made_otherwise_is_left_alone() -> None:
    run = make_run(make_status(phase=Phase.PREPARING))
    job = make_prepare_job()
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "1Gi"}}
    assert decide(run, jobs=[job], pods=[make_pod(job)]).actions == ()
    del job["metadata"]["annotations"]  # of an operator that knew no spec.prepare
    assert decide(run, jobs=[job], pods=[make_pod(job)]).actions == ()


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_what_prepare_may_take_says_nothing_to_a_preparation_that_has_ended(end: str) -> None:
    run = make_run(make_status(phase=Phase.PREPARING), prepare=ASKED)
    assert deleted(decide(run, jobs=[make_prepare_job(end)])) == []


def test_a_prepare_job_whose_node_is_gone_is_made_anew() -> None:
    job = make_prepare_job()
    lost = make_pod(job, **being_deleted(-60))
    planned = decide(make_run(), jobs=[job], pods=[lost])
    assert deleted(planned) == ["cpt-prepare"]
    assert created(decide(make_run(), pods=[lost])) == ["cpt-prepare"]
