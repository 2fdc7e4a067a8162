"""What others read in a run's status: Events, kstatus and Argo CD, in every phase, from statuses that `plan` made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from lupa.lua51 import LuaRuntime
from runyard.api.trainingrun import ConditionType, Phase
from runyard.decide.plan import plan
from runyard.decide.status import build_events, build_status
from runyard.decide.values import Decision, Manifest, Namespace, Observed, Run

from tests.builders import (
    NOW,
    SETTINGS,
    make_dead_pod,
    make_pod,
    make_prepare_job,
    make_progress,
    make_run,
    make_status,
    make_train_job,
    prepared_status,
    recovering_status,
)

HEALTH_LUA = Path(__file__).parents[4] / "docs" / "argocd" / "health.lua"
TRAIN_JOB, PREPARE_JOB = make_train_job(), make_prepare_job()


@dataclass(frozen=True)
class Example:
    """A run in a phase, and what others have to make of it."""

    run: Run
    observed: Observed
    kstatus: str
    argocd: str


def seen(**observed: Any) -> Observed:
    return Observed(**observed)


ALL_USED = {"hard": {"pods": "8"}, "used": {"pods": "8"}}
FULL = Namespace(quotas=({"metadata": {"name": "pods"}, "spec": ALL_USED, "status": ALL_USED},))
ATTEMPT = make_run(prepared_status(attempt=1))
EXAMPLES: dict[Phase, Example] = {
    Phase.PENDING: Example(
        make_run(), seen(apply_errors=("cannot create Job cpt-prepare: no",)), "InProgress", "Progressing"
    ),
    Phase.WAITING: Example(make_run(model={"run": {"name": "base"}}), seen(), "InProgress", "Progressing"),
    Phase.QUEUED: Example(make_run(prepared_status()), seen(namespace=FULL), "InProgress", "Progressing"),
    Phase.PREPARING: Example(
        make_run(), seen(jobs=(PREPARE_JOB,), pods=(make_pod(PREPARE_JOB),)), "InProgress", "Progressing"
    ),
    Phase.STARTING: Example(ATTEMPT, seen(jobs=(TRAIN_JOB,), pods=(make_pod(TRAIN_JOB),)), "InProgress", "Progressing"),
    Phase.RUNNING: Example(
        ATTEMPT,
        seen(jobs=(TRAIN_JOB,), pods=(make_pod(TRAIN_JOB),), progress=make_progress()),
        "Current",
        "Progressing",
    ),
    Phase.RECOVERING: Example(
        ATTEMPT, seen(jobs=(TRAIN_JOB,), pods=(make_dead_pod(TRAIN_JOB, code=1),)), "InProgress", "Progressing"
    ),
    Phase.SUSPENDING: Example(
        make_run(prepared_status(attempt=1), suspend=True), seen(jobs=(TRAIN_JOB,)), "InProgress", "Progressing"
    ),
    Phase.SUSPENDED: Example(make_run(recovering_status(), suspend=True), seen(), "InProgress", "Suspended"),
    Phase.SUCCEEDED: Example(
        ATTEMPT,
        seen(jobs=(make_train_job(1, "Complete"),), pods=(make_dead_pod(TRAIN_JOB, code=0),)),
        "Current",
        "Healthy",
    ),
    Phase.FAILED: Example(
        ATTEMPT, seen(jobs=(TRAIN_JOB,), pods=(make_dead_pod(TRAIN_JOB, code=65),)), "Failed", "Degraded"
    ),
}


def stored(phase: Phase) -> Manifest:
    """The run as the API server keeps it once the operator has seen it in that phase."""
    example = EXAMPLES[phase]
    status = plan(example.run, example.observed, SETTINGS, NOW).status
    assert status.phase is phase
    return as_stored(status.model_dump(mode="json", by_alias=True, exclude_none=True))


def as_stored(status: dict[str, Any], **metadata: Any) -> Manifest:
    return {"metadata": {"name": "cpt", "generation": 1, **metadata}, "spec": {}, "status": status}


def test_there_is_an_example_of_every_phase() -> None:
    assert set(EXAMPLES) == set(Phase)


# -------------------------------------------------------------------------------------------------------------- kstatus


def compute_kstatus(run: Manifest) -> str:
    """As sigs.k8s.io/cli-utils/pkg/kstatus publishes it for kinds that it does not know, in its order."""
    status = run.get("status", {})
    if run["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration", run["metadata"]["generation"]) != run["metadata"]["generation"]:
        return "InProgress"
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "Current" if conditions.get("Ready", "True") == "True" else "InProgress"


@pytest.mark.parametrize("phase", Phase)
def test_to_kstatus_a_run_is_like_a_job(phase: Phase) -> None:
    assert compute_kstatus(stored(phase)) == EXAMPLES[phase].kstatus


def test_to_kstatus_a_run_that_nobody_has_seen_yet_is_in_progress() -> None:
    assert compute_kstatus(as_stored({"observedGeneration": -1})) == "InProgress"


def test_to_kstatus_a_change_that_nobody_has_seen_yet_is_in_progress() -> None:
    run = stored(Phase.SUCCEEDED)
    run["metadata"]["generation"] = 2
    assert compute_kstatus(run) == "InProgress"


# -------------------------------------------------------------------------------------------------------------- Argo CD


def ask_argocd(run: Manifest) -> tuple[str, str]:
    """Health and message, by the script itself, in Lua 5.1 as Argo CD has it."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(run, recursive=True)
    health = lua.execute(HEALTH_LUA.read_text())
    return health.status, health.message


@pytest.mark.parametrize("phase", Phase)
def test_to_argo_cd_a_run_is_as_healthy_as_a_job(phase: Phase) -> None:
    run = stored(phase)
    ready = next(condition for condition in run["status"]["conditions"] if condition["type"] == "Ready")
    assert ask_argocd(run) == (EXAMPLES[phase].argocd, ready["message"])


def test_to_argo_cd_a_run_that_someone_has_to_help_is_degraded() -> None:
    status = plan(make_run(), Observed(conflicts=("Job/cpt-prepare",)), SETTINGS, NOW).status
    run = as_stored(status.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert (ask_argocd(run)[0], compute_kstatus(run)) == ("Degraded", "Failed")


@pytest.mark.parametrize("status", [{}, {"observedGeneration": -1}])
def test_to_argo_cd_a_run_that_nobody_has_seen_yet_is_progressing(status: dict[str, Any]) -> None:
    assert ask_argocd(as_stored(status))[0] == "Progressing"


# --------------------------------------------------------------------------------------------------------------- Events


@pytest.mark.parametrize(("old", "new"), list(permutations(Phase, 2)))
def test_every_change_of_phase_is_an_event_whose_reason_is_the_phase(old: Phase, new: Phase) -> None:
    before = make_status(ConditionType.READY, phase=old)
    after = build_status(before, Decision(new, "Because", "it is so"), is_prepared=True, generation=1, now=NOW)
    (event,) = build_events(before, after)
    assert (event.type, event.reason) == ("Warning" if new is Phase.FAILED else "Normal", new.value)
    assert build_events(after, after) == ()
