"""Runs that queue with Kueue: the place, what it says of the run, and what the plan makes of that."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.api import ConditionType, Phase, Restarts
from runyard.kueue import build_place
from runyard.plan import plan
from runyard.status import find_condition
from runyard.world import Create, Delete, Manifest, Observed, PatchStatus, Plan, Run

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
    found = [{"type": kind, "status": holds, "message": said} for kind, holds, said in conditions]
    return {"metadata": {"name": "wl-1"}, "spec": {"active": active}, "status": {"conditions": found, **status}}


def decide(run: Run, *jobs: Manifest, pods: tuple[Manifest, ...] = (), workload: Manifest | None = None) -> Plan:
    return plan(run, Observed(jobs=jobs, pods=pods, workload=workload), SETTINGS, NOW)


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
    assert planned.status.queue.message.endswith("Kueue says: Preempted to accommodate a workload")
    stored = queued(status=planned.status)
    again = decide(stored, place, job, pods=pods, workload=workload)
    assert deleted(again) == ["cpt-a1"]
    assert again.status.restarts == Restarts(preemptions=1)
    assert patched(again) == [], "its pods save, and hold their quota"
    gone = decide(stored, place, workload=workload)
    assert patched(gone) == [{"active": 0, "ready": 0}]


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
