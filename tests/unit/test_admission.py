"""When an attempt may start: what the plan makes of a namespace's quotas and runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from runyard.api import LastFailure, Phase, QueuePlace, TrainingRunStatus
from runyard.plan import plan
from runyard.world import Create, Manifest, Namespace, Observed, Plan, Run

from tests.builders import NOW, SETTINGS, make_pod, make_run, make_train_job, prepared_status, recovering_status

GPU = "requests.nvidia.com/gpu"


def make_quota(used: int, hard: int = 16) -> Manifest:
    amounts = {"hard": {GPU: str(hard)}, "used": {GPU: str(used)}}
    return {"metadata": {"name": "gpus"}, "spec": {"hard": amounts["hard"]}, "status": amounts}


def decide(run: Run, namespace: Namespace | None, **observed: Any) -> Plan:
    return plan(run, Observed(namespace=namespace, **observed), SETTINGS, NOW)


def other_run(status: TrainingRunStatus, created: str = "2026-05-04T11:00:00Z", **spec: Any) -> Run:
    return replace(make_run(status, **spec), name="other", uid="uid-other", created=created)


def created(planned: Plan) -> list[str]:
    return [action.manifest["metadata"]["name"] for action in planned.actions if isinstance(action, Create)]


def test_before_anybody_has_looked_at_the_namespace_nothing_is_made() -> None:
    planned = decide(make_run(prepared_status()), None)
    assert planned.needs_namespace
    assert planned.actions == ()


def test_where_there_is_room_the_attempt_starts() -> None:
    planned = decide(make_run(prepared_status()), Namespace(quotas=(make_quota(used=8),)))
    assert "cpt-a1" in created(planned)
    assert planned.status.queue is None


def test_where_there_is_none_the_run_is_queued_with_position_and_reason_and_looks_again_soon() -> None:
    planned = decide(make_run(prepared_status()), Namespace(quotas=(make_quota(used=12),)))
    want = "needs 8 nvidia.com/gpu, gpus has 4 of 16 free"
    assert (planned.status.phase, planned.status.queue) == (Phase.QUEUED, QueuePlace(position=1, message=want))
    admitted = next(each for each in planned.status.conditions if each.type == "Admitted")
    assert (admitted.status, admitted.reason, admitted.message) == ("False", "Queued", want)
    assert planned.actions == ()
    assert planned.requeue_at is not None
    assert planned.requeue_at > NOW


QUEUED = TrainingRunStatus(phase=Phase.QUEUED, queue=QueuePlace(position=1))
OTHERS: dict[str, tuple[TrainingRunStatus, dict[str, Any], bool]] = {
    "an older run waits": (QUEUED, {}, False),
    "an older run that waited is suspended": (QUEUED, {"suspend": True}, True),
    "an older run prepares": (TrainingRunStatus(phase=Phase.PREPARING), {}, True),
    "a run is between two attempts": (
        recovering_status(last_failure=LastFailure(attempt=1, reason="Error")),
        {},
        False,
    ),
    "a run was suspended": (recovering_status(), {"suspend": True}, True),
    "a run was suspended and has not started again": (recovering_status(), {}, True),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_run_that_would_fit_alone_starts_or_waits_where(case: str) -> None:
    status, spec, starts = OTHERS[case]
    namespace = Namespace(quotas=(make_quota(used=0, hard=8),), runs=(other_run(status, **spec),))
    planned = decide(make_run(prepared_status()), namespace)
    assert ("cpt-a1" in created(planned)) is starts


def test_pods_of_a_live_attempt_that_are_there_count_once() -> None:
    job = make_train_job()
    job["metadata"]["labels"]["runyard.dev/run-uid"] = "uid-other"
    namespace = Namespace(
        quotas=(make_quota(used=4),),
        runs=(other_run(prepared_status(attempt=1)),),
        jobs=(job,),
        pods=(make_pod(job, 0),),
    )
    assert "cpt-a1" in created(decide(make_run(prepared_status()), namespace))
    full = replace(namespace, quotas=(make_quota(used=5),))
    assert created(decide(make_run(prepared_status()), full)) == []


def test_a_priority_class_that_the_cluster_has_not_is_named() -> None:
    run = make_run(prepared_status(), queue={"priorityClassName": "research"})
    planned = decide(run, Namespace())
    ready = next(each for each in planned.status.conditions if each.type == "Ready")
    assert (planned.status.phase, ready.reason) == (Phase.QUEUED, "PriorityClassNotFound")
    assert "queue.priorityClassName: the cluster has no PriorityClass research" in ready.message
    known = Namespace(priority_classes=({"metadata": {"name": "research"}, "value": 10},))
    assert "cpt-a1" in created(decide(run, known))
    assert "cpt-a1" in created(decide(run, Namespace(priority_classes=None)))


def test_the_pods_have_the_priority_class() -> None:
    run = make_run(prepared_status(), queue={"priorityClassName": "research"})
    planned = decide(run, Namespace(priority_classes=None))
    job = next(each.manifest for each in planned.actions if isinstance(each, Create) and each.manifest["kind"] == "Job")
    assert job["spec"]["template"]["spec"]["priorityClassName"] == "research"
