"""The rules of waiting for quota, by example: a run, what its namespace shares, and what the plan makes of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, LastFailure, Phase, TrainingRunStatus
from runyard.decide.manifests import build_train_job
from runyard.decide.plan import plan
from runyard.decide.status import find_condition
from runyard.decide.values import Create, Manifest, Namespace, Observed, Plan, Run

from tests.builders import (
    NOW,
    SETTINGS,
    being_deleted,
    make_condition,
    make_pod,
    make_prepare_job,
    make_run,
    prepared_status,
    recovering_status,
)

GPU = "requests.nvidia.com/gpu"
ADMITTED = ConditionType.ADMITTED


def quota(hard: int, used: int = 0, resource: str = GPU, **spec: Any) -> Manifest:
    return {
        "metadata": {"name": "gpus"},
        "spec": {"hard": {resource: str(hard)}, **spec},
        "status": {"used": {resource: str(used)}},
    }


def named(
    name: str, status: TrainingRunStatus | None = None, created: str = "2026-05-04T10:00:00Z", **spec: Any
) -> Run:
    run = make_run(status or prepared_status(), **spec)
    return replace(run, name=name, uid=f"uid-{name}", created=created)


def between_attempts() -> TrainingRunStatus:
    return recovering_status(last_failure=LastFailure(attempt=1, reason="Error"))


def job_of(run: Run, attempt: int = 1) -> Manifest:
    """Just made: it has no pods yet."""
    assert run.spec is not None
    job = build_train_job(run, run.spec, SETTINGS, attempt)
    job["metadata"] |= {"uid": f"job-{run.name}-{attempt}", "resourceVersion": "1"}
    job["status"] = {}
    return job


def pod_of(job: Manifest, index: int, **metadata: Any) -> Manifest:
    return make_pod(job, index, **metadata)


def decide(run: Run, *, others: tuple[Run, ...] = (), pods: tuple[Manifest, ...] = (), **namespace: Any) -> Plan:
    """Of a run of 8 GPUs; `pods` are its own."""
    shared = Namespace(**{"runs": (run, *others), "pods": pods, "quotas": (quota(8),), **namespace})
    own_jobs = tuple(job for job in shared.jobs if job["metadata"]["ownerReferences"][0]["uid"] == run.uid)
    return plan(run, Observed(jobs=own_jobs, pods=pods, namespace=shared), SETTINGS, NOW)


def starts(planned: Plan) -> bool:
    return any(isinstance(action, Create) and "-a" in action.manifest["metadata"]["name"] for action in planned.actions)


def waits_because(planned: Plan) -> str:
    assert (planned.status.phase, planned.actions) == (Phase.QUEUED, ())
    assert planned.status.queue is not None
    return planned.status.queue.message


def test_a_run_whose_pods_all_fit_starts_and_is_admitted() -> None:
    planned = decide(named("cpt"))
    assert starts(planned)
    admitted = find_condition(planned.status, ADMITTED)
    assert admitted is not None
    assert admitted.status == "True"


def test_a_run_that_does_not_fit_makes_nothing_and_says_what_it_needs_and_what_there_is() -> None:
    planned = decide(named("cpt"), quotas=(quota(32, used=28),))
    assert waits_because(planned) == "needs 8 nvidia.com/gpu, team-a has 4 of 32 free"
    assert planned.status.queue is not None
    assert planned.status.queue.position == 0
    assert planned.requeue_at is not None


def test_a_run_that_kueue_does_not_let_start_keeps_nobody_from_the_quota() -> None:
    older = named("older", queue={"name": "gpus"}, created="2026-05-04T09:00:00Z")
    assert starts(decide(named("cpt"), others=(older,)))


def test_two_runs_that_look_at_the_same_quota_do_not_both_take_the_last_gpus() -> None:
    first = named("first")
    planned = decide(named("second"), others=(first,), jobs=(job_of(first),))
    assert waits_because(planned) == "needs 8 nvidia.com/gpu, team-a has 0 of 8 free"


def test_runs_ahead_are_counted_and_keep_what_they_wait_for() -> None:
    wide = named("wide", compute={"nodes": 4, "gpusPerNode": 8}, created="2026-05-04T09:00:00Z")
    small = named("small", compute={"nodes": 1, "gpusPerNode": 1})
    planned = decide(small, others=(wide,), quotas=(quota(32, used=8),))
    assert waits_because(planned) == "needs 1 nvidia.com/gpu, team-a has 24 of 32 free; 1 run ahead"
    assert planned.status.queue is not None
    assert planned.status.queue.position == 1


def test_a_higher_priority_goes_first_and_a_cluster_default_counts() -> None:
    classes = (
        {"metadata": {"name": "research"}, "value": 100},
        {"metadata": {"name": "usual"}, "value": 10, "globalDefault": True},
    )
    older = named("older", created="2026-05-04T09:00:00Z")
    urgent = named("urgent", queue={"priorityClassName": "research"})
    assert starts(decide(urgent, others=(older,), priority_classes=classes))
    assert "1 run ahead" in waits_because(decide(older, others=(urgent,), priority_classes=classes))


def test_a_priority_class_that_is_not_there_is_told_instead_of_pods_that_never_come() -> None:
    planned = decide(named("cpt", queue={"priorityClassName": "resaerch"}), priority_classes=())
    assert waits_because(planned).startswith(
        "queue.priorityClassName: the cluster has no PriorityClass resaerch: create"
    )
    assert starts(decide(named("cpt", queue={"priorityClassName": "resaerch"}), priority_classes=None))


def test_a_run_too_large_for_the_quota_says_what_to_do_and_blocks_nobody() -> None:
    huge = named("huge", compute={"nodes": 4, "gpusPerNode": 8}, created="2026-05-04T09:00:00Z")
    planned = decide(huge)
    assert waits_because(planned) == (
        "needs 32 nvidia.com/gpu, team-a has 8 in all: lower what compute asks for, or have ResourceQuota gpus raised"
    )
    assert starts(decide(named("cpt"), others=(huge,)))


def test_a_suspended_or_finished_or_unprepared_run_is_not_ahead() -> None:
    early = "2026-05-04T09:00:00Z"
    others = (
        named("suspended", suspend=True, created=early),
        named("finished", TrainingRunStatus(conditions=[make_condition(ConditionType.FAILED)]), created=early),
        named("unprepared", TrainingRunStatus(), created=early),
    )
    assert starts(decide(named("cpt"), others=others))


def test_the_next_attempt_of_a_run_keeps_its_place_before_older_runs_that_have_not_started() -> None:
    older = named("older", created="2026-05-04T09:00:00Z")
    recovering = named("recovering", between_attempts())
    assert starts(decide(recovering, others=(older,)))
    assert "1 run ahead" in waits_because(decide(older, others=(recovering,)))


def test_two_runs_that_both_go_on_do_not_block_each_other_when_the_quota_was_lowered() -> None:
    one = named("one", between_attempts())
    two = named("two", between_attempts())
    assert [starts(decide(one, others=(two,))), starts(decide(two, others=(one,)))] == [True, False]


def test_pods_that_are_still_ending_and_hold_the_quota_are_named() -> None:
    run = named("cpt", between_attempts())
    old = tuple(pod_of(job_of(run), index, **being_deleted(-5)) for index in range(2))
    planned = decide(run, pods=old, quotas=(quota(8, used=8),))
    assert waits_because(planned) == (
        "needs 8 nvidia.com/gpu, team-a has 0 of 8 free; cpt-a1-0-x, cpt-a1-1-x of an earlier attempt "
        "still hold part of it"
    )


def test_pods_of_an_ended_attempt_are_not_counted_beside_the_place_that_is_kept_for_the_next() -> None:
    ending = named("ending", between_attempts())
    old = tuple(pod_of(job_of(ending), index, **being_deleted(-5)) for index in range(2))
    other = named("other", created="2026-05-04T13:00:00Z")
    shared = Namespace(runs=(ending, other), pods=old, quotas=(quota(16, used=8),))
    assert starts(plan(other, Observed(namespace=shared), SETTINGS, NOW))


def test_a_run_whose_attempt_has_just_broken_keeps_its_place_before_that_is_settled() -> None:
    broken = named("broken", prepared_status(attempt=1))
    job = job_of(broken)
    job["status"] = {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}
    assert "1 run ahead" in waits_because(decide(named("cpt"), others=(broken,), jobs=(job,)))


def test_a_suspended_run_that_is_resumed_queues_like_any_other() -> None:
    older = named("older", created="2026-05-04T09:00:00Z")
    assert "1 run ahead" in waits_because(decide(named("resumed", recovering_status()), others=(older,)))


def test_pods_of_a_live_attempt_that_are_there_count_once() -> None:
    other = named("other", prepared_status(attempt=1))
    job = job_of(other)
    shared = Namespace(runs=(other,), jobs=(job,), pods=(pod_of(job, 0),))
    run = named("cpt")
    for used, want in ((4, True), (5, False)):
        namespace = replace(shared, quotas=(quota(16, used=used),))
        assert starts(plan(run, Observed(namespace=namespace), SETTINGS, NOW)) is want


def test_a_quota_of_one_priority_class_counts_the_runs_of_that_class_alone() -> None:
    classes = (
        {"metadata": {"name": "research"}, "value": 100},
        {"metadata": {"name": "usual"}, "value": 10, "globalDefault": True},
    )
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": ["usual"]}
    quotas = (quota(8, scopeSelector={"matchExpressions": [scope]}),)
    urgent = named("urgent", prepared_status(attempt=1), queue={"priorityClassName": "research"})
    usual = named("usual", prepared_status(attempt=1))
    for other, want in ((urgent, True), (usual, False)):
        jobs = (job_of(other),)
        planned = decide(named("cpt"), others=(other,), jobs=jobs, quotas=quotas, priority_classes=classes)
        assert starts(planned) is want


def test_the_pod_that_prepares_another_run_is_reserved_for() -> None:
    job = make_prepare_job(ownerReferences=[{"uid": "uid-other", "controller": True}])
    job["metadata"]["labels"]["runyard.dev/run-uid"] = "uid-other"
    cpu = quota(2, resource="requests.cpu")
    assert starts(decide(named("cpt"), quotas=(cpu,)))
    planned = decide(named("cpt"), jobs=(job,), quotas=(cpu,))
    assert waits_because(planned) == "needs 2 cpu, team-a has 1 of 2 free"


def test_the_quota_of_a_prepare_pod_is_held_against_what_it_asks_for_and_not_against_what_training_does() -> None:
    own = {
        "compute": {"nodes": 2, "gpusPerNode": 4, "resources": {"cpu": "96"}},
        "prepare": {"resources": {"cpu": "3"}},
    }
    run = make_run(**own)
    job = next(each.manifest for each in decide(run).actions if isinstance(each, Create) and "spec" in each.manifest)
    job["metadata"] |= {"uid": "job-1", "resourceVersion": "1"}
    for hard, is_told in ((3, False), (2, True)):
        namespace = Namespace(quotas=(quota(hard, used=0, resource="requests.cpu"),))
        planned = plan(run, Observed(jobs=(job,), namespace=namespace), SETTINGS, NOW)
        ready = find_condition(planned.status, ConditionType.READY)
        assert ready is not None
        assert ("needs 3 cpu, team-a has 2 in all: lower prepare.resources" in ready.message) == is_told


@pytest.mark.parametrize(
    ("hard", "want"),
    [
        (4, "needs 1 cpu, team-a has 0 of 4 free"),
        (0, "needs 1 cpu, team-a has 0 in all: lower prepare.resources, or have ResourceQuota gpus raised"),
    ],
)
def test_a_prepare_pod_that_quota_keeps_from_being_made_is_told(hard: int, want: str) -> None:
    job, run = make_prepare_job(), make_run()
    cpus = quota(hard, used=hard, resource="requests.cpu")
    planned = plan(run, Observed(jobs=(job,), namespace=Namespace(quotas=(cpus,))), SETTINGS, NOW)
    ready = find_condition(planned.status, ConditionType.READY)
    assert ready is not None
    assert (planned.status.phase, ready.reason) == (Phase.PREPARING, "QuotaExceeded")
    assert ready.message == f"the pod that prepares the data {want}"


def test_before_it_is_told_why_the_prepare_pod_is_not_there_somebody_looks_at_the_quotas() -> None:
    observed = Observed(jobs=(make_prepare_job(),), namespace=None)
    assert plan(make_run(), observed, SETTINGS, NOW).needs_namespace


def test_before_anybody_has_looked_at_the_namespace_nothing_is_made() -> None:
    planned = plan(named("cpt"), Observed(namespace=None), SETTINGS, NOW)
    assert planned.needs_namespace
    assert planned.actions == ()


def test_the_pods_have_the_priority_class() -> None:
    planned = decide(named("cpt", queue={"priorityClassName": "research"}), priority_classes=None)
    job = next(each.manifest for each in planned.actions if isinstance(each, Create) and each.manifest["kind"] == "Job")
    assert job["spec"]["template"]["spec"]["priorityClassName"] == "research"
