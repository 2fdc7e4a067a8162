"""Where the next attempt runs, by example: the nodes it avoids, and the shape that it goes down to."""

from __future__ import annotations

from typing import Any

import pytest
from runyard.api.trainingrun import Compute, Phase
from runyard.decide.facts.placement import shrink
from runyard.decide.manifests import build_train_job
from runyard.decide.values import Create, Manifest, Plan, Run
from runyard_trainer.contract.reports import PodReport

from tests.builders import (
    SETTINGS,
    at,
    began,
    being_deleted,
    make_dead_pod,
    make_pod,
    make_run,
    make_spec,
    make_train_job,
    make_unscheduled_pod,
    prepared_status,
    recovering_status,
)
from tests.unit.operator.decisions import attempt_run, created, decide, message_of


def job_of(planned: Plan) -> Manifest:
    (job,) = [
        action.manifest for action in planned.actions if isinstance(action, Create) and action.manifest["kind"] == "Job"
    ]
    return job


# -------------------------------------------------------------------------------------------------------- avoided nodes


def lose(attempt: int, run: Run, **pod: Any) -> Plan:
    job = make_train_job(attempt)
    return decide(run, jobs=[job], pods=[make_dead_pod(job, 1, **pod)])


def test_a_node_that_has_failed_a_run_twice_is_shown_and_left_for_any_other_node() -> None:
    once = lose(1, attempt_run(), code=139)
    assert (once.status.node_failures, once.status.avoided_nodes) == ({"node-1": 1}, [])
    started = decide(make_run(once.status), now=at(60))
    assert "affinity" not in job_of(started)["spec"]["template"]["spec"]
    twice = lose(2, make_run(started.status), code=139)
    assert twice.status.avoided_nodes == ["node-1"]
    assert job_of(decide(make_run(twice.status), now=at(60)))["spec"]["template"]["spec"]["affinity"] == {
        "nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}]
                    },
                }
            ]
        }
    }


def test_a_node_that_is_lost_with_a_pod_counts_too() -> None:
    job = make_train_job()
    planned = decide(attempt_run(), jobs=[job], pods=[make_pod(job, 1, **being_deleted(-60))])
    assert planned.status.node_failures == {"node-1": 1}


BLAMELESS: dict[str, dict[str, Any]] = {
    "a pod that was interrupted": {"code": 75},
    "a mistake in the data": {"code": 65},
    "a rank that was the first to say that all stand still": {"code": 79},
    "a store that did not answer": {"code": 1, "report": PodReport(reason="StorageUnavailable", exit_code=1)},
}


@pytest.mark.parametrize("what", BLAMELESS)
def test_the_node_is_not_to_blame_for(what: str) -> None:
    assert lose(1, attempt_run(), **BLAMELESS[what]).status.node_failures == {}


# ---------------------------------------------------------------------------------------------------------------- shape

SHAPES: dict[str, tuple[dict[str, int], int, int, int | None]] = {
    "a run that needs all its nodes": ({"nodes": 8}, 8, 5, None),
    "a run that can do with those that found room": ({"nodes": 8, "minNodes": 4}, 8, 5, 5),
    "never below minNodes": ({"nodes": 8, "minNodes": 4}, 8, 2, 4),
    "down further": ({"nodes": 8, "minNodes": 4}, 6, 5, 5),
    "where room was not what was missing": ({"nodes": 8, "minNodes": 4}, 8, 8, None),
    "likewise, of a smaller shape": ({"nodes": 8, "minNodes": 4}, 5, 5, 5),
}


@pytest.mark.parametrize("what", SHAPES)
def test_the_next_attempt_has_the_shape_of(what: str) -> None:
    compute, nodes, num_scheduled, want = SHAPES[what]
    assert shrink(Compute.model_validate(compute), nodes, num_scheduled) == want


def test_an_elastic_run_goes_on_with_the_nodes_that_there_are_and_asks_for_all_again_next_time() -> None:
    elastic: dict[str, Any] = {"compute": {"nodes": 2, "minNodes": 1, "gpusPerNode": 4}}
    job = began(make_train_job(), -900)
    run = make_run(prepared_status(phase=Phase.STARTING, attempt=1), **elastic)
    settled = decide(run, jobs=[job], pods=[make_pod(job, 0), make_unscheduled_pod(job, 1)])
    assert settled.status.nodes == 1
    assert "with 1 of 2 nodes" in message_of(settled)
    assert settled.requeue_at is not None
    started = decide(make_run(settled.status, **elastic), now=settled.requeue_at)
    assert job_of(started)["spec"]["completions"] == job_of(started)["spec"]["parallelism"] == 1
    assert started.status.gpus == 4
    ended = decide(
        make_run(started.status, **elastic), jobs=[smaller := make_train_job(2)], pods=[make_dead_pod(smaller, code=75)]
    )
    assert ended.status.nodes is None
    again = decide(make_run(ended.status, **elastic), now=at(2000))
    assert job_of(again)["spec"]["completions"] == 2


def test_what_was_edited_while_suspended_is_the_shape_of_the_next_attempt() -> None:
    run = make_run(recovering_status(), compute={"nodes": 3, "gpusPerNode": 4})
    planned = decide(run)
    assert (created(planned), job_of(planned)["spec"]["completions"], planned.status.gpus) == (["cpt-a2"], 3, 12)


def test_an_attempt_without_anything_to_avoid_has_no_affinity() -> None:
    job = build_train_job(make_run(), make_spec(), SETTINGS, 1)
    assert "affinity" not in job["spec"]["template"]["spec"]
