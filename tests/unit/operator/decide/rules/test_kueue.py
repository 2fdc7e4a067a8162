"""Runs that queue with Kueue: the place, what it says of the run, and what the plan makes of that."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.api.trainingrun import ConditionType, Phase, Restarts
from runyard.decide.plan import plan
from runyard.decide.rules.kueue import build_place
from runyard.decide.status import find_condition
from runyard.decide.values import (
    Create,
    Delete,
    KueueView,
    Manifest,
    Namespace,
    Observed,
    PatchStatus,
    Plan,
    QueuePosition,
    Run,
)
from runyard_trainer.contract.reports import CommittedCheckpoint

from tests.builders import (
    NOW,
    SETTINGS,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_run,
    make_status,
    make_train_job,
    prepared_status,
    recovering_status,
)

QUEUE = {"name": "gpus"}
FLAVOR = {"nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}


def make_place(*, suspend: bool = False, status: dict[str, int] | None = None, **metadata: Any) -> Manifest:
    """The place as stored: admitted, unless it is suspended."""
    run = make_run(queue=QUEUE)
    assert run.spec is not None
    place = build_place(run, run.spec, SETTINGS)
    place["metadata"] |= {"uid": "uid-place", "resourceVersion": "9"} | metadata
    place["spec"]["suspend"] = suspend
    place["status"] = status or {}
    return place


def make_workload(*conditions: tuple[str, str, str], active: bool = True, **status: Any) -> Manifest:
    """Kueue's; conditions are type, status and message."""
    when = "2026-05-04T11:00:00Z"
    found = [
        {"type": kind, "status": holds, "message": said, "lastTransitionTime": when} for kind, holds, said in conditions
    ]
    return {"metadata": {"name": "wl-1"}, "spec": {"active": active}, "status": {"conditions": found, **status}}


def decide(run: Run, *jobs: Manifest, pods: tuple[Manifest, ...] = (), **kueue: Any) -> Plan:
    return plan(run, Observed(jobs=jobs, pods=pods, kueue=KueueView(**kueue)), SETTINGS, NOW)


def queued(**fields: Any) -> Run:
    return make_run(fields.pop("status", prepared_status()), queue=QUEUE, **fields)


def training() -> Run:
    return queued(status=make_status(ConditionType.PREPARED, ConditionType.RUNNING, attempt=1))


def created_jobs(planned: Plan) -> list[Manifest]:
    made = [action.manifest for action in planned.actions if isinstance(action, Create)]
    return [manifest for manifest in made if manifest["kind"] == "Job"]


def deleted(planned: Plan) -> list[str]:
    return [action.name for action in planned.actions if isinstance(action, Delete)]


def patched(planned: Plan) -> list[dict[str, Any]]:
    return [action.fields for action in planned.actions if isinstance(action, PatchStatus)]


def test_a_prepared_run_asks_for_a_place_of_the_size_of_an_attempt_that_no_pods_are_made_of() -> None:
    planned = decide(queued())
    (place,) = created_jobs(planned)
    assert planned.status.phase is Phase.QUEUED
    assert place["metadata"]["name"] == "cpt-place"
    assert place["metadata"]["labels"] == {
        "runyard.dev/run-uid": "uid-1",
        "runyard.dev/run": "cpt",
        "runyard.dev/role": "place",
        "kueue.x-k8s.io/queue-name": "gpus",
    }
    spec = place["spec"]
    assert (spec["suspend"], spec["managedBy"], spec["parallelism"]) == (True, "runyard.dev/operator", 2)
    limits = spec["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "4"


def test_a_run_without_a_queue_has_no_place() -> None:
    assert [job["metadata"]["name"] for job in created_jobs(decide(make_run(prepared_status())))] == ["cpt-a1"]


@pytest.mark.parametrize(
    ("workload", "want"),
    [
        (None, "Kueue has not seen it yet"),
        (make_workload(("QuotaReserved", "False", "insufficient quota, 16 more needed")), "16 more needed"),
        (
            make_workload(
                ("QuotaReserved", "True", ""),
                admissionChecks=[{"name": "budget", "state": "Pending", "message": "asks"}],
            ),
            "Kueue has quota for it and waits for budget: asks",
        ),
        (make_workload(("QuotaReserved", "True", "")), "about to admit"),
        (make_workload(), "Kueue has it in the queue"),
    ],
)
def test_while_it_is_held_it_says_why_in_kueues_words(workload: Manifest | None, want: str) -> None:
    planned = decide(queued(), make_place(suspend=True), workload=workload)
    assert planned.status.phase is Phase.QUEUED
    assert planned.status.queue is not None
    assert want in planned.status.queue.message
    assert planned.status.queue.position is None
    assert planned.actions == ()
    assert planned.requeue_at is not None


@pytest.mark.parametrize(
    ("workload", "want"),
    [
        (
            make_workload(
                ("QuotaReserved", "False", "ClusterQueue far is inactive"),
                admissionChecks=[
                    {
                        "name": "far",
                        "state": "Rejected",
                        "message": "The owner is not managed by Kueue: Expecting spec.managedBy to be "
                        '"kueue.x-k8s.io/multikueue" not "runyard.dev/operator"',
                    }
                ],
            ),
            "runs are not sent to other clusters",
        ),
        (
            make_workload(admissionChecks=[{"name": "budget", "state": "Rejected", "message": "spent"}], active=False),
            "Kueue has refused it (budget: spent)",
        ),
        (
            make_workload(("QuotaReserved", "False", "x"), ("Evicted", "True", "stopped by ops"), active=False),
            "Workload wl-1 is not active (stopped by ops): set its spec.active to true",
        ),
    ],
)
def test_where_it_is_refused_it_says_so_and_that_somebody_has_to_act(workload: Manifest, want: str) -> None:
    planned = decide(queued(), make_place(suspend=True), workload=workload)
    assert planned.status.phase is Phase.QUEUED
    assert planned.status.queue is not None
    assert want in planned.status.queue.message
    stalled = find_condition(planned.status, ConditionType.STALLED)
    assert stalled is not None
    assert (stalled.status, stalled.reason) == ("True", "Refused")


def test_an_admitted_run_starts_its_attempt_under_the_place_and_where_kueue_wants_it() -> None:
    place = make_place()
    template = place["spec"]["template"]
    template["spec"] |= FLAVOR
    template["metadata"]["annotations"] = {"kueue.x-k8s.io/workload": "wl-1"}
    template["metadata"]["labels"] |= {"job-name": "cpt-place", "batch.kubernetes.io/controller-uid": "1", "team": "a"}
    planned = decide(queued(), place)
    (job,) = created_jobs(planned)
    assert job["metadata"]["name"] == "cpt-a1"
    controller, owner = job["metadata"]["ownerReferences"]
    assert (controller["kind"], controller["uid"], controller["controller"]) == ("Job", "uid-place", True)
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("TrainingRun", "uid-1", False)
    assert {name: job["spec"]["template"]["spec"][name] for name in FLAVOR} == FLAVOR
    assert job["spec"]["template"]["metadata"] == {
        "labels": job["metadata"]["labels"] | {"team": "a"},
        "annotations": {"kueue.x-k8s.io/workload": "wl-1"},
    }
    assert planned.status.attempt == 1


def test_where_kubernetes_would_make_pods_of_the_place_the_run_fails() -> None:
    place = make_place(suspend=True)
    del place["spec"]["managedBy"]
    planned = decide(queued(), place)
    assert planned.status.phase is Phase.FAILED
    assert "1.32" in (planned.status.conditions[0].message)


def test_the_place_counts_the_pods_of_the_attempt_and_is_not_written_for_nothing() -> None:
    job = make_train_job()
    pods = (make_pod(job, 0), make_dead_pod(job, 1, code=0))
    assert patched(decide(training(), make_place(), job, pods=pods)) == [{"active": 2, "ready": 2}]
    counted = make_place(status={"active": 2, "ready": 2})
    assert patched(decide(training(), counted, job, pods=pods)) == []


def test_an_eviction_settles_the_attempt_first_and_costs_no_budget() -> None:
    job = make_train_job()
    place = make_place(suspend=True, status={"active": 2, "ready": 2})
    workload = make_workload(("Evicted", "True", "Preempted to accommodate a workload"))
    pods = (make_pod(job, 0), make_pod(job, 1))
    planned = decide(training(), place, job, pods=pods, workload=workload)
    assert deleted(planned) == []
    assert planned.status.restarts == Restarts(preemptions=1)
    assert planned.status.ended_attempt == 1
    assert planned.status.phase is Phase.QUEUED
    assert planned.status.queue is not None
    assert planned.status.queue.message == (
        "attempt 1 saves a checkpoint and stops: Kueue says: Preempted to accommodate a workload. It is in the queue "
        "again, and goes on by itself from its newest checkpoint, if there is one"
    )
    stored = queued(status=planned.status)
    again = decide(stored, place, job, pods=pods, workload=workload)
    assert deleted(again) == ["cpt-a1"]
    assert again.status.restarts == Restarts(preemptions=1)
    assert patched(again) == [], "its pods save, and hold their quota"
    assert again.status.queue == planned.status.queue, "so long it says so"
    gone = decide(stored, place, workload=workload)
    assert patched(gone) == [{"active": 0, "ready": 0}]


PREEMPTED = (("Evicted", "True", "Preempted to accommodate a workload"), ("Preempted", "True", "Preempted to ..."))


@pytest.mark.parametrize(
    ("conditions", "preemptor", "want", "why"),
    [
        (PREEMPTED, "Job urgent-place", "Preempted", "preempted for Job urgent-place; Kueue says: Preempted to acc"),
        (PREEMPTED, None, "Preempted", "Kueue says: Preempted to accommodate a workload"),
        ((("Evicted", "True", "The ClusterQueue is stopped"),), None, "Evicted", "Kueue says: The ClusterQueue is st"),
    ],
)
def test_an_eviction_is_told_as_an_event_with_whom_it_was_for_and_where_the_run_goes_on(
    conditions: tuple[tuple[str, str, str], ...], preemptor: str | None, want: str, why: str
) -> None:
    job, checkpoint = make_train_job(), CommittedCheckpoint(step=400, uri="s3://b/c/400", time="t")
    run = queued(
        status=make_status(
            ConditionType.PREPARED, ConditionType.RUNNING, phase=Phase.RUNNING, attempt=1, checkpoint=checkpoint
        )
    )
    workload = make_workload(("QuotaReserved", "True", ""), *conditions)
    pods = (make_pod(job, 0), make_pod(job, 1))
    planned = decide(run, make_place(suspend=True), job, pods=pods, workload=workload, preemptor=preemptor)
    (event,) = planned.events
    assert (event.type, event.reason) == ("Normal", want)
    assert why in event.message
    assert event.message.endswith("goes on by itself from step 400 or later")


@pytest.mark.parametrize(
    ("preemptor", "want"),
    [
        ("Job urgent-place", "2 more needed. Preempted for Job urgent-place at 2026-05-04T11:00:00Z: it goes on by"),
        (None, "2 more needed. Evicted (Preempted to accommodate a workload) at 2026-05-04T11:00:00Z: it goes on by"),
    ],
)
def test_while_it_is_held_again_it_says_when_and_for_whom_it_was_preempted(preemptor: str | None, want: str) -> None:
    workload = make_workload(("QuotaReserved", "False", "2 more needed"), *PREEMPTED)
    planned = decide(
        queued(status=recovering_status()), make_place(suspend=True), workload=workload, preemptor=preemptor
    )
    assert planned.status.queue is not None
    assert want in planned.status.queue.message


@pytest.mark.parametrize(
    ("ahead", "position", "want"),
    [
        (QueuePosition(2, 2), 2, "needed; 2 ahead in queue gpus"),
        (QueuePosition(0, 3), 0, "needed; 0 ahead in queue gpus, 3 in other queues of its ClusterQueue"),
        (QueuePosition(0, 0), 0, "needed"),
        (None, None, "needed"),
    ],
)
def test_a_held_run_says_how_many_are_ahead_where_kueue_tells(
    ahead: QueuePosition | None, position: int | None, want: str
) -> None:
    workload = make_workload(("QuotaReserved", "False", "2 more needed"))
    planned = decide(queued(), make_place(suspend=True), workload=workload, position=ahead)
    assert planned.status.queue is not None
    assert planned.status.queue.position == position
    assert planned.status.queue.message.endswith(want)


@pytest.mark.parametrize(
    ("kinds", "label", "class_of_pods"),
    [
        (frozenset({"WorkloadPriorityClass"}), "urgent", None),
        (frozenset({"PriorityClass"}), None, "urgent"),
        (frozenset({"PriorityClass", "WorkloadPriorityClass"}), "urgent", "urgent"),
        (None, None, "urgent"),
    ],
)
def test_a_priority_reaches_kueue_and_the_pods_each_as_the_class_that_it_knows(
    kinds: frozenset[str] | None, label: str | None, class_of_pods: str | None
) -> None:
    queue = QUEUE | {"priorityClassName": "urgent"}
    run = make_run(prepared_status(), queue=queue)
    (place,) = created_jobs(decide(run, priority_kinds=kinds))
    assert place["metadata"]["labels"].get("kueue.x-k8s.io/priority-class") == label
    assert place["spec"]["template"]["spec"].get("priorityClassName") == class_of_pods
    place["metadata"] |= {"uid": "uid-place", "resourceVersion": "9"}
    place["spec"]["suspend"] = False
    classes = ({"metadata": {"name": "urgent"}, "value": 1},) if class_of_pods else ()
    observed = Observed(jobs=(place,), namespace=Namespace(priority_classes=classes))
    (job,) = created_jobs(plan(run, observed, SETTINGS, NOW))
    assert job["spec"]["template"]["spec"].get("priorityClassName") == class_of_pods


def test_a_priority_that_is_no_class_at_all_is_told_and_waited_for() -> None:
    run = make_run(prepared_status(), queue=QUEUE | {"priorityClassName": "urgent"})
    planned = decide(run, priority_kinds=frozenset())
    assert planned.actions == ()
    assert planned.requeue_at is not None
    ready = find_condition(planned.status, ConditionType.READY)
    assert ready is not None
    assert ready.reason == "PriorityClassNotFound"
    assert ready.message == (
        "queue.priorityClassName: the cluster has neither a WorkloadPriorityClass nor a PriorityClass urgent: create "
        "one of them, and this run goes on"
    )


@pytest.mark.parametrize("how", ["gone", "being deleted", "the attempt's Job is suspended"])
def test_whatever_takes_the_place_away_ends_the_attempt(how: str) -> None:
    job = make_train_job()
    job["spec"]["suspend"] = how == "the attempt's Job is suspended"
    places = {"gone": (), "being deleted": (make_place(**being_deleted(0)),)}.get(how, (make_place(),))
    planned = decide(training(), *places, job, pods=(make_pod(job, 0), make_pod(job, 1)))
    assert planned.status.restarts == Restarts(preemptions=1)


def test_a_pod_that_ends_as_it_is_evicted_is_not_a_disruption() -> None:
    job = make_train_job()
    pods = (make_dead_pod(job, 0, code=75), make_dead_pod(job, 1, code=143))
    planned = decide(training(), make_place(suspend=True), job, pods=pods)
    assert planned.status.restarts == Restarts(preemptions=1)


def test_after_a_failure_the_next_attempt_starts_in_the_same_place() -> None:
    planned = decide(queued(status=recovering_status()), make_place())
    assert [job["metadata"]["name"] for job in created_jobs(planned)] == ["cpt-a2"]
    assert deleted(planned) == []


def test_readmitted_before_its_pods_have_saved_it_waits_for_them() -> None:
    job = make_train_job(**being_deleted(0))
    pods = (make_pod(job, 0, **being_deleted(0)),)
    planned = decide(queued(status=recovering_status()), make_place(status={"active": 1}), job, pods=pods)
    assert created_jobs(planned) == []
    assert planned.status.phase is Phase.SUSPENDING


@pytest.mark.parametrize("kind", [ConditionType.SUCCEEDED, ConditionType.FAILED])
def test_a_finished_run_gives_its_place_back_once_its_pods_have_ended(kind: ConditionType) -> None:
    job = make_train_job()
    run = queued(status=make_status(kind, attempt=1, ended_attempt=1))
    busy = decide(run, make_place(status={"active": 1}), job, pods=(make_pod(job, 0),))
    assert "cpt-place" not in deleted(busy)
    done = decide(run, make_place(), job, pods=(make_dead_pod(job, 0, code=0),))
    assert "cpt-place" in deleted(done)


def test_a_suspended_run_gives_its_place_back_once_its_pods_have_saved() -> None:
    job = make_train_job(**being_deleted(0))
    run = queued(status=recovering_status(), suspend=True)
    saving = decide(run, make_place(status={"active": 1}), job, pods=(make_pod(job, 0, **being_deleted(0)),))
    assert deleted(saving) == []
    assert deleted(decide(run, make_place())) == ["cpt-place"]


def test_a_place_for_another_number_of_nodes_is_given_back() -> None:
    run = queued(status=recovering_status(), compute={"nodes": 3, "gpusPerNode": 4})
    planned = decide(run, make_place())
    assert deleted(planned) == ["cpt-place"]
    assert created_jobs(planned) == []
    assert created_jobs(decide(run, make_place(**being_deleted(0)))) == []
