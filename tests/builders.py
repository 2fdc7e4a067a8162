"""Runs, Jobs and Pods as the API server gives them: only what a test is about has to be said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from runyard.api.trainingrun import Condition, ConditionType, Phase, TrainingRunSpec, TrainingRunStatus
from runyard.decide.manifests import build_prepare_job, build_train_job
from runyard.decide.values import Manifest, Run, Settings
from runyard_trainer.contract.reports import PodReport, Progress
from runyard_trainer.contract.times import format_time

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
SETTINGS = Settings(trainer_image="trainer:1", storage_endpoint="http://s3:9000", storage_addressing="path")
SPEC: dict[str, Any] = {
    "model": {"uri": "s3://models/base"},
    "data": {"train": [{"uri": "s3://corpora/filings/"}]},
    "training": {"steps": 100},
    "output": {"uri": "s3://models/fin"},
    "compute": {"nodes": 2, "gpusPerNode": 4},
}


def at(seconds: float) -> datetime:
    """So many seconds after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def make_spec(**fields: Any) -> TrainingRunSpec:
    return TrainingRunSpec.model_validate(SPEC | fields)


def make_run(status: TrainingRunStatus | None = None, **spec: Any) -> Run:
    return Run(
        namespace="team-a",
        name="cpt",
        uid="uid-1",
        generation=1,
        resource_version="7",
        spec=make_spec(**spec),
        status=status or TrainingRunStatus(),
        created=format_time(NOW),
    )


def make_status(*holding: ConditionType, **fields: Any) -> TrainingRunStatus:
    """A stored status in which these conditions hold."""
    return TrainingRunStatus(conditions=[make_condition(kind) for kind in holding], **fields)


def make_condition(
    kind: ConditionType, *, holds: bool = True, reason: str = "Because", message: str = "it is so"
) -> Condition:
    return Condition(
        type=kind.value,
        status="True" if holds else "False",
        observed_generation=1,
        last_transition_time=format_time(at(-60)),
        reason=reason,
        message=message,
    )


def prepared_status(**fields: Any) -> TrainingRunStatus:
    """Data is prepared, and nothing else has happened."""
    return make_status(ConditionType.PREPARED, **({"phase": Phase.PREPARING} | fields))


def recovering_status(**fields: Any) -> TrainingRunStatus:
    """The first attempt has ended early, and that is settled."""
    return prepared_status(**({"phase": Phase.RECOVERING, "attempt": 1, "ended_attempt": 1} | fields))


# ----------------------------------------------------------------------------------------------------------------- Jobs


def make_prepare_job(*conditions: str, **metadata: Any) -> Manifest:
    return _as_stored(build_prepare_job(make_run(), make_spec(), SETTINGS), conditions, metadata)


def make_train_job(attempt: int = 1, *conditions: str, **metadata: Any) -> Manifest:
    """Attempt's Job of two pods; `conditions` hold."""
    return _as_stored(build_train_job(make_run(), make_spec(), SETTINGS, attempt), conditions, metadata)


def began(job: Manifest, second: float) -> Manifest:
    """The Job has been allowed to make pods since `second` seconds after `NOW`."""
    job["status"]["startTime"] = format_time(at(second))
    return job


def _as_stored(job: Manifest, conditions: tuple[str, ...], metadata: dict[str, Any]) -> Manifest:
    job["metadata"] |= {"uid": f"uid-{job['metadata']['name']}", "resourceVersion": "3"} | metadata
    job["status"] = {"conditions": [{"type": kind, "status": "True", "reason": "Because"} for kind in conditions]}
    return job


# ----------------------------------------------------------------------------------------------------------------- Pods


def make_pod_spec(gpus: int = 1, **fields: Any) -> dict[str, Any]:
    """Of a pod that asks for GPUs and for a little else."""
    amounts = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
    return {"containers": [{"name": "trainer", "resources": {"requests": amounts, "limits": amounts}}], **fields}


def make_pod(job: Manifest, index: int = 0, *, state: dict[str, Any] | None = None, **metadata: Any) -> Manifest:
    """A pod of the Job; running, unless `state` says otherwise."""
    name = f"{job['metadata']['name']}-{index}-x"
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {**job["metadata"]["labels"], "batch.kubernetes.io/job-completion-index": str(index)},
            "ownerReferences": [{"uid": job["metadata"]["uid"], "controller": True}],
            **metadata,
        },
        "spec": {"nodeName": f"node-{index}"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "trainer", "state": state or {"running": {}}}],
        },
    }


def make_dead_pod(
    job: Manifest,
    index: int = 0,
    *,
    code: int,
    second: float = -1,
    report: PodReport | None = None,
    reason: str | None = None,
    **metadata: Any,
) -> Manifest:
    """A pod whose container ended with `code`, `second` seconds after `NOW`."""
    ended = {
        "exitCode": code,
        "reason": reason or ("Completed" if code == 0 else "Error"),
        "finishedAt": format_time(at(second)),
        "message": report.to_json() if report else "",
    }
    pod = make_pod(job, index, state={"terminated": ended}, **metadata)
    pod["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
    return pod


def make_waiting_pod(job: Manifest, index: int = 0, *, reason: str, message: str) -> Manifest:
    pod = make_pod(job, index, state={"waiting": {"reason": reason, "message": message}})
    pod["status"]["phase"] = "Pending"
    return pod


def make_unscheduled_pod(job: Manifest, index: int = 0) -> Manifest:
    pod = make_waiting_pod(job, index, reason="", message="")
    del pod["spec"]["nodeName"]
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    return with_condition(pod, "PodScheduled", "False", reason="Unschedulable", message=message)


def with_condition(pod: Manifest, kind: str, status: str = "True", **fields: str) -> Manifest:
    pod["status"].setdefault("conditions", []).append({"type": kind, "status": status, **fields})
    return pod


def being_deleted(second: float, grace_s: int = 30) -> dict[str, Any]:
    """Metadata of what was deleted `second` seconds after `NOW`."""
    return {"deletionTimestamp": format_time(at(second + grace_s)), "deletionGracePeriodSeconds": grace_s}


def make_progress(**fields: Any) -> Progress:
    given = {"stage": "training", "attempt": 1, "step": 10, "total_steps": 100, "last_heartbeat_time": format_time(NOW)}
    return Progress.model_validate(given | fields)


def with_spec_error(run: Run, message: str) -> Run:
    return replace(run, spec=None, spec_error=message)
