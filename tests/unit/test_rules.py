"""The rule table by example: a run and what is seen of it, and what the plan makes of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from runyard.api import Condition, ConditionType, LastFailure, Phase, Restarts
from runyard.plan import plan
from runyard.render import build_config_map, build_prepare_job, build_service, build_train_job, resolve_recipe
from runyard.times import format_time
from runyard.world import Create, Delete, Manifest, Observed, Plan, Run
from runyard_trainer.outcome import CommittedCheckpoint, DataSummary, PodReport, Result

from tests.builders import (
    NOW,
    SETTINGS,
    at,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_prepare_job,
    make_progress,
    make_run,
    make_spec,
    make_status,
    make_train_job,
    make_waiting_pod,
    prepared_status,
    recovering_status,
    with_condition,
    with_spec_error,
)

CONFIG_MAP = build_config_map(make_run(), resolve_recipe(make_run(), make_spec(), SETTINGS))
EXISTING = {"config_maps": frozenset({CONFIG_MAP["metadata"]["name"]}), "services": frozenset({"cpt-ranks"})}


def decide(run: Run, *, now: datetime = NOW, **observed: Any) -> Plan:
    observed = {name: tuple(value) if isinstance(value, list) else value for name, value in observed.items()}
    return plan(run, Observed(**{**EXISTING, **observed}), SETTINGS, now)


def condition(planned: Plan, kind: ConditionType) -> Condition:
    return next(condition for condition in planned.status.conditions if condition.type == kind)


def holding(planned: Plan) -> set[str]:
    return {condition.type for condition in planned.status.conditions if condition.status == "True"}


def message_of(planned: Plan) -> str:
    return condition(planned, ConditionType.READY).message


def created(planned: Plan) -> list[str]:
    return [action.manifest["metadata"]["name"] for action in planned.actions if isinstance(action, Create)]


def deleted(planned: Plan) -> list[str]:
    return [action.name for action in planned.actions if isinstance(action, Delete)]


def attempt_run(**status: Any) -> Run:
    return make_run(prepared_status(**({"phase": Phase.RUNNING, "attempt": 1} | status)))


# -------------------------------------------------------------------------------------------------------------- prepare


def test_a_new_run_gets_its_recipe_and_a_prepare_job_and_is_not_ready_from_first_sight() -> None:
    run = make_run()
    planned = decide(run, config_maps=frozenset(), services=frozenset())
    assert planned.actions == (Create(CONFIG_MAP), Create(build_prepare_job(run, make_spec(), SETTINGS)))
    assert (planned.status.phase, holding(planned)) == (Phase.PREPARING, {"Reconciling"})
    assert (planned.status.mode, planned.status.gpus, planned.status.observed_generation) == (
        "ContinuedPreTraining",
        8,
        1,
    )


def test_a_recipe_that_is_there_is_not_created_again() -> None:
    assert created(decide(make_run())) == ["cpt-prepare"]


def test_a_prepare_job_at_work_is_left_alone() -> None:
    job = make_prepare_job()
    planned = decide(make_run(), jobs=[job], pods=[make_pod(job)])
    assert (planned.actions, planned.status.phase) == ((), Phase.PREPARING)


def test_a_finished_prepare_job_is_remembered_with_what_it_found_and_the_first_attempt_starts() -> None:
    data = DataSummary(manifest="s3://b/dataset.json", documents=3, tokens=99)
    report = PodReport(reason="Completed", data=data, resolved={"vocabSize": "400"})
    job = make_prepare_job("Complete")
    run = make_run()
    planned = decide(run, jobs=[job], pods=[make_dead_pod(job, code=0, report=report)], services=frozenset())
    assert planned.actions == (Create(build_service(run)), Create(build_train_job(run, make_spec(), SETTINGS, 1)))
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


def test_a_prepare_job_whose_node_is_gone_is_made_anew() -> None:
    job = make_prepare_job()
    lost = make_pod(job, **being_deleted(-60))
    planned = decide(make_run(), jobs=[job], pods=[lost])
    assert deleted(planned) == ["cpt-prepare"]
    assert created(decide(make_run(), pods=[lost])) == ["cpt-prepare"]


# ------------------------------------------------------------------------------------------------------------- attempts


def test_a_live_attempt_is_left_alone() -> None:
    job = make_train_job()
    planned = decide(attempt_run(phase=Phase.STARTING), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)])
    assert (planned.actions, planned.status.phase) == ((), Phase.STARTING)
    assert message_of(planned) == "attempt 1: 2 of 2 pods run"


def test_an_attempt_whose_status_write_was_lost_is_found_by_its_job() -> None:
    job = make_train_job(3)
    planned = decide(make_run(prepared_status(attempt=2, ended_attempt=2)), jobs=[job], pods=[make_pod(job)])
    assert (planned.actions, planned.status.attempt) == ((), 3)


@pytest.mark.parametrize(
    ("stage", "phase", "reason"),
    [
        ("starting", Phase.STARTING, "Starting"),
        ("evaluating", Phase.RUNNING, "Evaluating"),
        ("training", Phase.RUNNING, "Training"),
        ("exporting", Phase.RUNNING, "Exporting"),
        ("finished", Phase.RUNNING, "Exporting"),
    ],
)
def test_what_rank_0_is_doing_shows_in_the_reason(stage: str, phase: Phase, reason: str) -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_pod(job)], progress=make_progress(stage=stage))
    assert (planned.status.phase, condition(planned, ConditionType.READY).reason) == (phase, reason)


def test_progress_is_shown_for_people_and_its_checkpoint_kept() -> None:
    job = make_train_job()
    checkpoint = CommittedCheckpoint(uri="s3://models/fin/checkpoints/step-8", step=8, time="t")
    progress = make_progress(
        loss=2.13389,
        eta_seconds=5520,
        tokens_per_second=61000.4,
        tokens=640,
        checkpoint=checkpoint,
        resolved={"a": "1"},
    )
    planned = decide(attempt_run(), jobs=[job], pods=[make_pod(job)], progress=progress)
    shown = planned.status.progress
    assert shown is not None
    assert (shown.step, shown.total_steps, shown.tokens) == (10, 100, 640)
    assert (shown.loss, shown.eta, shown.tokens_per_second) == ("2.134", "1h 32m", 61000)
    assert (planned.status.checkpoint, planned.status.resolved) == (checkpoint, {"a": "1"})


def test_progress_of_an_older_attempt_says_nothing() -> None:
    job = make_train_job(2)
    run = make_run(prepared_status(attempt=2, ended_attempt=1))
    planned = decide(run, jobs=[job], pods=[make_pod(job)], progress=make_progress(attempt=1))
    assert (planned.status.progress, planned.status.phase) == (None, Phase.STARTING)


def test_a_running_attempt_that_does_not_answer_for_once_stays_running() -> None:
    job = make_train_job()
    run = make_run(make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1, phase=Phase.RUNNING))
    assert decide(run, jobs=[job], pods=[make_pod(job)]).status.phase is Phase.RUNNING


def test_an_attempt_whose_pods_all_ended_with_0_is_the_end() -> None:
    job = make_train_job(1, "Complete")
    result = Result(uri="s3://models/fin/model/", report="s3://models/fin/report.html", digest="sha256:1")
    report = PodReport(reason="Completed", result=result, progress=make_progress(stage="finished", step=100))
    pods = [make_dead_pod(job, 0, code=0, report=report), make_dead_pod(job, 1, code=0)]
    planned = decide(attempt_run(), jobs=[job], pods=pods)
    assert (planned.status.phase, holding(planned)) == (Phase.SUCCEEDED, {"Ready", "Prepared", "Succeeded"})
    assert (planned.status.result, planned.requeue_at, planned.actions) == (result, None, ())
    assert planned.status.progress is not None
    assert planned.status.progress.step == 100
    assert message_of(planned) == "the model is at s3://models/fin/model/"


@pytest.mark.parametrize("message", ["", "no JSON", '{"reason": 7}'])
def test_a_success_whose_report_is_unreadable_is_a_success(message: str) -> None:
    job = make_train_job(1, "Complete")
    pod = make_dead_pod(job, code=0)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = message
    planned = decide(attempt_run(), jobs=[job], pods=[pod])
    assert (planned.status.phase, planned.status.result) == (Phase.SUCCEEDED, None)


# -------------------------------------------------------------------------------------------------------- ending early


def test_a_failed_attempt_is_settled_first_and_the_next_one_starts_only_from_the_stored_status() -> None:
    job = make_train_job()
    report = PodReport(reason="Error", message="it broke", exit_code=1, rank=5, log_tail="Traceback")
    observed: dict[str, Any] = {"jobs": [job], "pods": [make_dead_pod(job, 1, code=1, report=report), make_pod(job, 0)]}
    settled = decide(attempt_run(), **observed)
    assert (settled.actions, settled.status.phase) == ((), Phase.RECOVERING)
    assert (settled.status.attempt, settled.status.ended_attempt) == (1, 1)
    assert settled.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert settled.status.last_failure == LastFailure(
        attempt=1,
        rank=5,
        node="node-1",
        exit_code=1,
        reason="Error",
        message="it broke",
        remedy="look at its log: kubectl logs cpt-a1-1-x",
        log_tail="Traceback",
        time=format_time(at(-1)),
    )
    assert settled.requeue_at == NOW
    started = decide(make_run(settled.status), **observed)
    assert created(started) == ["cpt-a2"]
    assert started.status.restarts == settled.status.restarts
    assert (started.status.attempt, started.status.next_attempt_time) == (2, None)


@pytest.mark.parametrize("code", [64, 65, 66, 67, 70, 71, 78])
def test_a_fatal_exit_fails_the_run_at_once(code: int) -> None:
    job = make_train_job()
    report = PodReport(reason="NonFinite", message="loss is nan", exit_code=code, rank=0)
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=code, report=report), make_pod(job, 1)])
    assert (planned.status.phase, holding(planned)) == (Phase.FAILED, {"Prepared", "Stalled", "Failed"})
    assert condition(planned, ConditionType.FAILED).reason == "NonFinite"
    assert condition(planned, ConditionType.FAILED).message.endswith("loss is nan")


@pytest.mark.parametrize("code", [1, 2, 134, 137, 139])
def test_any_other_exit_is_a_failure(code: int) -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=code)])
    assert planned.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)


def test_a_container_that_someone_put_beside_ours_says_nothing() -> None:
    job = make_train_job()
    pod = make_pod(job)
    pod["status"]["containerStatuses"].insert(0, {"name": "sidecar", "state": {"terminated": {"exitCode": 64}}})
    assert decide(attempt_run(), jobs=[job], pods=[pod]).status.ended_attempt == 0


def test_a_pod_out_of_memory_says_so_and_what_to_do() -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_dead_pod(job, code=137, reason="OOMKilled")])
    failure = planned.status.last_failure
    assert failure is not None
    assert failure.reason == "OOMKilled"
    assert "compute.resources.memory" in failure.remedy
    assert "compute.resources.memory" in planned.events[0].message


def test_a_pod_without_a_report_says_how_it_ended_with_the_end_of_its_log() -> None:
    job = make_train_job()
    pod = make_dead_pod(job, code=127)
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = "sh: python: not found"
    failure = decide(attempt_run(), jobs=[job], pods=[pod]).status.last_failure
    assert failure is not None
    assert (failure.message, failure.log_tail) == ("pod cpt-a1-0-x ended with exit code 127", "sh: python: not found")
    assert failure.remedy == "look at its log: kubectl logs cpt-a1-0-x"


def test_more_failures_than_the_budget_fail_the_run_and_the_message_names_the_budget() -> None:
    job = make_train_job(4)
    status = prepared_status(attempt=4, ended_attempt=3, restarts=Restarts(failures=3, failures_since_checkpoint=3))
    planned = decide(make_run(status), jobs=[job], pods=[make_dead_pod(job, code=1)])
    assert (planned.status.phase, condition(planned, ConditionType.FAILED).reason) == (
        Phase.FAILED,
        "FailureBudgetExceeded",
    )
    assert "recovery.maxFailures is 3" in message_of(planned)
    assert planned.status.restarts.failures == 4


def test_a_newer_checkpoint_refills_the_failure_budget() -> None:
    job = make_train_job(4)
    status = prepared_status(attempt=4, ended_attempt=3, restarts=Restarts(failures=3, failures_since_checkpoint=3))
    progress = make_progress(attempt=4, checkpoint=CommittedCheckpoint(uri="u", step=50, time="t"))
    planned = decide(make_run(status), jobs=[job], pods=[make_pod(job)], progress=progress)
    assert planned.status.restarts == Restarts(failures=3, failures_since_checkpoint=0)
    again = decide(make_run(planned.status), jobs=[job], pods=[make_dead_pod(job, code=1)], progress=progress)
    assert again.status.restarts == Restarts(failures=4, failures_since_checkpoint=1)


def test_more_disruptions_than_the_budget_fail_the_run() -> None:
    job = make_train_job()
    run = make_run(prepared_status(attempt=1, restarts=Restarts(disruptions=20)))
    planned = decide(run, jobs=[job], pods=[make_dead_pod(job, code=75)])
    assert condition(planned, ConditionType.FAILED).reason == "DisruptionBudgetExceeded"
    assert "recovery.maxDisruptions is 20" in message_of(planned)


def _evicted(job: Manifest) -> list[Manifest]:
    pod = make_pod(job)
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    return [pod]


DISRUPTIONS: dict[str, tuple[Callable[[Manifest], list[Manifest]], str]] = {
    "an interrupted rank": (lambda job: [make_dead_pod(job, code=75)], "Interrupted"),
    "a pod ended by SIGTERM": (lambda job: [make_dead_pod(job, code=143)], "Error"),
    "a pod drained from its node": (
        lambda job: [with_condition(make_dead_pod(job, code=1), "DisruptionTarget", reason="EvictionByEvictionAPI")],
        "EvictionByEvictionAPI",
    ),
    "a pod evicted for lack of memory": (_evicted, "Evicted"),
    "a pod deleted by hand, killed": (
        lambda job: [make_dead_pod(job, code=137, second=-1, **being_deleted(-5, grace_s=0))],
        "PodDeleted",
    ),
    "a pod past its grace period on a node that is gone": (
        lambda job: [make_pod(job, **being_deleted(-60))],
        "NodeLost",
    ),
    "a pod on a node that does not answer": (
        lambda job: [
            with_condition(
                with_condition(
                    make_pod(job, **being_deleted(-1, grace_s=120)), "DisruptionTarget", reason="DeletionByTaintManager"
                ),
                "Ready",
                "False",
            )
        ],
        "NodeLost",
    ),
}


@pytest.mark.parametrize("name", DISRUPTIONS)
def test_an_attempt_whose_pods_were_taken_away_is_disrupted_and_goes_on_at_once(name: str) -> None:
    make_pods, reason = DISRUPTIONS[name]
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=make_pods(job))
    assert planned.status.restarts == Restarts(disruptions=1)
    assert planned.status.last_failure is not None
    assert planned.status.last_failure.reason == reason
    assert planned.requeue_at == NOW
    assert created(decide(make_run(planned.status), jobs=[job], pods=make_pods(job))) == ["cpt-a2"]


def test_a_job_deleted_by_hand_is_a_disruption_once_its_pods_have_saved() -> None:
    job = make_train_job()
    saving = make_pod(job, **being_deleted(-1, grace_s=120))
    waiting = decide(attempt_run(), pods=[saving])
    assert (waiting.actions, waiting.status.restarts) == ((), Restarts())
    assert waiting.requeue_at == at(-1 + 120 + 10)
    assert decide(attempt_run()).status.restarts == Restarts(disruptions=1)


def test_a_pod_told_to_stop_keeps_its_attempt_until_it_has_saved() -> None:
    job = make_train_job()
    planned = decide(
        attempt_run(), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1, **being_deleted(-5, grace_s=120))]
    )
    assert (planned.actions, planned.status.restarts, planned.status.ended_attempt) == ((), Restarts(), 0)


def test_a_pod_that_is_gone_without_a_trace_is_told_by_the_job() -> None:
    job = make_train_job(1, "FailureTarget")
    assert decide(attempt_run(), jobs=[job], pods=[make_pod(job, 1)]).status.restarts == Restarts(disruptions=1)


def test_a_job_that_fails_before_its_pods_are_seen_to_is_looked_at_again() -> None:
    job = make_train_job(1, "FailureTarget")
    assert decide(attempt_run(), jobs=[job], pods=[make_pod(job, 0), make_pod(job, 1)]).status.ended_attempt == 0


def test_the_first_to_break_is_the_cause_and_not_those_who_lost_it() -> None:
    job = make_train_job()
    report = PodReport(reason="Error", message="the cause", exit_code=137, rank=1)
    pods = [
        make_dead_pod(job, 0, code=75, second=-9, report=PodReport(reason="Interrupted", rank=0, exit_code=75)),
        make_dead_pod(job, 1, code=137, second=-3, report=report, **being_deleted(-8)),
    ]
    planned = decide(attempt_run(), jobs=[job], pods=pods)
    assert planned.status.restarts == Restarts(failures=1, failures_since_checkpoint=1)
    assert planned.status.last_failure is not None
    assert (planned.status.last_failure.rank, planned.status.last_failure.message) == (1, "the cause")


def test_while_only_victims_are_seen_the_cause_is_waited_for_a_little() -> None:
    job = make_train_job()
    pods = [make_dead_pod(job, 0, code=75, second=-2), make_pod(job, 1)]
    waiting = decide(attempt_run(), jobs=[job], pods=pods)
    assert (waiting.status.ended_attempt, waiting.requeue_at) == (0, at(13))
    assert decide(attempt_run(), now=at(13), jobs=[job], pods=pods).status.restarts == Restarts(disruptions=1)


def test_a_failed_job_is_kept_for_its_logs_and_one_that_would_go_on_is_deleted() -> None:
    job = make_train_job()
    run = make_run(recovering_status(last_failure=LastFailure(attempt=1, reason="Error")))
    assert deleted(decide(run, jobs=[job], pods=[make_dead_pod(job, 0, code=1), make_pod(job, 1)])) == []
    half_lost = decide(run, jobs=[job], pods=[make_pod(job, 0, **being_deleted(-60)), make_pod(job, 1)])
    assert half_lost.actions[0] == Delete("Job", "cpt-a1", "uid-cpt-a1", "3")
    assert created(half_lost) == ["cpt-a2"]


def test_a_failure_is_repeated_at_once_and_one_that_comes_again_waits_longer_each_time() -> None:
    job = make_train_job()
    waits = []
    for failures in range(10):
        restarts = Restarts(failures=failures, failures_since_checkpoint=failures)
        run = make_run(prepared_status(attempt=1, restarts=restarts), recovery={"maxFailures": 100})
        settled = decide(run, jobs=[job], pods=[make_dead_pod(job, code=1)])
        assert settled.requeue_at is not None
        waits.append((settled.requeue_at - NOW).total_seconds())
    assert waits[0] == 0
    for wait, floor in zip(waits[1:], [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert floor <= wait <= floor * 1.25 + 1  # in whole seconds
    waiting = decide(make_run(settled.status), jobs=[job], pods=[make_dead_pod(job, code=1)])
    assert (waiting.actions, waiting.status, waiting.requeue_at) == ((), settled.status, settled.requeue_at)
    others = [replace(run, uid=f"uid-{number}") for number in range(9)]
    assert len({decide(other, jobs=[job], pods=[make_dead_pod(job, code=1)]).requeue_at for other in others}) > 1


# ------------------------------------------------------------------------------------------------------------- suspend


def test_suspending_settles_the_attempt_before_its_job_is_deleted_and_costs_no_budget() -> None:
    job = make_train_job()
    pods = [make_pod(job, 0), make_pod(job, 1)]
    told = decide(replace(attempt_run(), spec=make_spec(suspend=True)), jobs=[job], pods=pods)
    assert (told.actions, told.status.phase, told.status.ended_attempt) == ((), Phase.SUSPENDING, 1)
    stopping = decide(make_run(told.status, suspend=True), jobs=[job], pods=pods)
    assert deleted(stopping) == ["cpt-a1"]
    assert (stopping.status.phase, stopping.status.restarts) == (Phase.SUSPENDING, Restarts())


def test_a_run_is_suspended_when_its_pods_are_gone_and_not_before() -> None:
    job = make_train_job()
    status = prepared_status(phase=Phase.SUSPENDING, attempt=1, ended_attempt=1)
    saving = decide(make_run(status, suspend=True), pods=[make_pod(job, **being_deleted(-1))])
    assert saving.status.phase is Phase.SUSPENDING
    gone = decide(make_run(status, suspend=True))
    assert (gone.status.phase, holding(gone)) == (Phase.SUSPENDED, {"Prepared", "Suspended"})
    assert (gone.actions, gone.status.restarts) == ((), Restarts())


def test_a_resumed_run_goes_on_with_the_next_attempt_once_the_old_one_has_saved() -> None:
    job = make_train_job()
    status = prepared_status(phase=Phase.SUSPENDED, attempt=1, ended_attempt=1)
    saving = decide(make_run(status), pods=[make_pod(job, **being_deleted(-1))])
    assert (saving.actions, saving.status.phase) == ((), Phase.SUSPENDING)
    assert created(decide(make_run(status))) == ["cpt-a2"]


def test_suspending_while_preparing_deletes_the_prepare_job() -> None:
    job = make_prepare_job()
    planned = decide(make_run(suspend=True), jobs=[job], pods=[make_pod(job)])
    assert (deleted(planned), planned.status.phase) == (["cpt-prepare"], Phase.SUSPENDING)


def test_a_run_created_suspended_creates_nothing() -> None:
    planned = decide(make_run(suspend=True), config_maps=frozenset(), services=frozenset())
    assert (planned.actions, planned.status.phase) == ((), Phase.SUSPENDED)


# ------------------------------------------------------------------------------------------------------ what stands by


@pytest.mark.parametrize(("kind", "phase"), [("Succeeded", Phase.SUCCEEDED), ("Failed", Phase.FAILED)])
def test_a_finished_run_stays_as_it_is_whatever_is_seen(kind: str, phase: Phase) -> None:
    status = make_status(ConditionType(kind), ConditionType.PREPARED, phase=phase, attempt=1, ended_attempt=1)
    first = decide(make_run(status))
    job = make_train_job()
    for observed in ({}, {"jobs": [job], "pods": [make_dead_pod(job, code=1)]}, {"conflicts": ("Job/cpt-a2",)}):
        planned = decide(make_run(first.status, suspend=True), **observed)
        assert (planned.status, planned.actions, planned.events) == (first.status, (), ())


@pytest.mark.parametrize("kind", ["Succeeded", "Failed"])
def test_a_finished_run_is_deleted_when_its_ttl_is_over_and_not_before(kind: str) -> None:
    status = make_status(ConditionType(kind), attempt=1, ended_attempt=1)  # since a minute ago
    waiting = decide(make_run(status, ttlSecondsAfterFinished=61))
    assert (waiting.actions, waiting.requeue_at) == ((), at(1))
    over = decide(make_run(status, ttlSecondsAfterFinished=60))
    assert over.actions == (Delete("TrainingRun", "cpt", "uid-1", "7"),)
    assert decide(make_run(status)).actions == ()


UNFINISHED: dict[str, Run] = {
    "new": make_run(),
    "prepared": make_run(prepared_status()),
    "recovering": make_run(recovering_status(next_attempt_time=format_time(at(30)))),
    "starting": make_run(prepared_status(phase=Phase.STARTING, attempt=1)),
    "running": make_run(make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1)),
    "suspending": make_run(prepared_status(phase=Phase.SUSPENDING, attempt=1, ended_attempt=1)),
    "suspended": make_run(make_status(ConditionType.PREPARED, ConditionType.SUSPENDED, attempt=1, ended_attempt=1)),
}


@pytest.mark.parametrize("phase", UNFINISHED)
def test_a_run_that_is_not_finished_has_no_ttl(phase: str) -> None:
    run = replace(UNFINISHED[phase], spec=make_spec(ttlSecondsAfterFinished=0))
    planned = decide(run, now=at(9000))
    assert [name for name in deleted(planned) if name == "cpt"] == []


@pytest.mark.parametrize("phase", UNFINISHED)
def test_a_run_that_is_suspended_in_any_phase_comes_to_rest_and_goes_on_when_it_is_resumed(phase: str) -> None:
    run = UNFINISHED[phase]
    for _ in range(2):
        run = replace(run, spec=make_spec(suspend=True))
        run = replace(run, status=decide(run).status)
    assert run.status.phase is Phase.SUSPENDED
    resumed = decide(replace(run, spec=make_spec()), now=at(30))
    assert created(resumed) == ["cpt-prepare" if phase == "new" else f"cpt-a{run.status.attempt + 1}"]


def test_a_finished_runs_attempt_that_would_go_on_is_stopped() -> None:
    status = make_status(ConditionType.FAILED, phase=Phase.FAILED, attempt=1, ended_attempt=1)
    job = make_train_job()
    assert deleted(decide(make_run(status), jobs=[job], pods=[make_pod(job)])) == ["cpt-a1"]


def test_a_stored_spec_that_cannot_be_read_fails_the_run_and_creates_nothing() -> None:
    planned = decide(with_spec_error(make_run(), "spec.training.steps: must be positive"))
    assert (planned.actions, planned.status.phase) == ((), Phase.FAILED)
    assert condition(planned, ConditionType.FAILED).reason == "SpecError"
    assert "spec.training.steps: must be positive" in message_of(planned)


def test_a_name_that_is_taken_stalls_the_run_and_says_what_to_do() -> None:
    planned = decide(make_run(), conflicts=("Job/cpt-prepare",))
    assert (planned.actions, holding(planned)) == ((), {"Stalled"})
    assert condition(planned, ConditionType.STALLED).reason == "NameConflict"
    assert "Job/cpt-prepare in namespace team-a" in message_of(planned)
    assert [(event.type, event.reason) for event in planned.events] == [("Warning", "NameConflict")]


def test_what_could_not_be_applied_is_said_and_no_attempt_is_counted() -> None:
    planned = decide(make_run(prepared_status()), apply_errors=("cannot create Job cpt-a1: exceeded quota",))
    assert (planned.actions, planned.status.attempt) == ((), 0)
    assert condition(planned, ConditionType.RECONCILING).reason == "ApplyFailed"
    assert "exceeded quota" in message_of(planned)


WAITS: dict[str, tuple[Callable[[Manifest], Manifest], str, list[str]]] = {
    "a Secret that is missing": (
        lambda job: make_waiting_pod(job, reason="CreateContainerConfigError", message='secret "runyard-s3" not found'),
        "CreateContainerConfigError",
        ['secret "runyard-s3" not found', "namespace team-a", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    ),
    "an image that cannot be pulled": (
        lambda job: make_waiting_pod(job, reason="ImagePullBackOff", message='Back-off pulling image "x"'),
        "ImagePull",
        ['Back-off pulling image "x"', "compute.image"],
    ),
    "no node with room": (
        lambda job: with_condition(
            make_waiting_pod(job, reason="", message=""),
            "PodScheduled",
            "False",
            reason="Unschedulable",
            message="0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        ),
        "Unschedulable",
        ["Insufficient nvidia.com/gpu", "compute.nodes"],
    ),
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("make_job", [make_prepare_job, make_train_job])
def test_a_pod_that_waits_for_something_that_can_be_mended_is_told_and_does_not_fail(name: str, make_job: Any) -> None:
    make_waiting, reason, words = WAITS[name]
    job = make_job()
    run = make_run() if make_job is make_prepare_job else attempt_run(phase=Phase.STARTING)
    planned = decide(run, jobs=[job], pods=[make_waiting(job)])
    assert planned.status.phase in (Phase.PREPARING, Phase.STARTING)
    assert condition(planned, ConditionType.READY).reason == reason
    assert [word for word in words if word not in message_of(planned)] == []
