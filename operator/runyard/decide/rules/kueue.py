"""The rules of runs that queue with Kueue (`queue.name`), and the Job that holds their place.

Kueue admits Jobs, and a Job that is replaced loses its place. So a run has one more Job, its *place*: it carries the
queue's name and what an attempt takes, and it lives until the run ends or is suspended. By `managedBy` its controller
is this operator, so Kubernetes makes no pods for it. Kueue owns its `suspend`. While it is not suspended, the run's
attempts are Jobs as without Kueue, except that the place controls them: Kueue counts them as admitted with it, and
stops them when it evicts it. The messages are in `kueue_messages`. See docs/decisions/0014-kueue.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import (
    LABEL_ATTEMPT,
    LABEL_ROLE,
    LABEL_RUN,
    LABEL_RUN_UID,
    Phase,
    QueuePlace,
    Role,
    TrainingRunSpec,
)
from runyard.decide import manifests
from runyard.decide.facts import pods
from runyard.decide.rules import kueue_messages, lifecycle
from runyard.decide.situation import Situation, build_delete
from runyard.decide.status import count, is_finished
from runyard.decide.values import Action, Create, Decision, Manifest, PatchStatus, Run, Settings

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY = "kueue.x-k8s.io/priority-class"
"""Kueue prefers it to the PriorityClass of the pods."""
MANAGER = "runyard.dev/operator"

RECHECK = timedelta(seconds=10)
"""How soon Kueue's reasons are read again: its Workloads are not watched. An admission shows in the place, which is."""

_JOB_CONTROLLERS_LABELS = ("controller-uid", "job-name")
_PLACEMENT_FIELDS = ("nodeSelector", "tolerations", "schedulingGates")
"""What Kueue adds to a Job's pods when it admits it: where the flavor's nodes are."""


# ---------------------------------------------------------------------------------------------------------------- rules


def has_lost_place(situation: Situation) -> Decision | None:
    """Settle the attempt of a run that Kueue has evicted while it trained, at no cost to a budget."""
    if situation.spec.queue.name is None or not situation.is_attempting:
        return None
    place, job = situation.place_job, situation.attempt_job
    is_stopped = job is not None and is_suspended(job)
    if place is not None and is_admitted(place) and not is_stopped:
        return None
    changes = {
        "ended_attempt": situation.attempt,
        "next_attempt_time": None,
        "restarts": count(situation.known.restarts, preemptions=1),
    }
    return replace(_wait(situation, *kueue_messages.describe_eviction(situation), changes), requeue_at=situation.now)


def waits_for_place(situation: Situation) -> Decision | None:
    """Wait while Kueue has not admitted the run, or not again."""
    place = situation.place_job
    if situation.spec.queue.name is None:
        return None
    if place is None:
        return _ask_for_place(situation)
    if "managedBy" not in place["spec"]:
        message = (
            "queue.name needs Kubernetes 1.32 or newer: this one would run the pods of the Job that holds the place"
        )
        return lifecycle.fail(situation, ConditionReason.NOT_SUPPORTED, message)
    if pods.is_deleting(place):
        return _wait(situation, ConditionReason.QUEUED, "gives its former place back, and then asks for another")
    if place["spec"]["parallelism"] != situation.spec.compute.nodes:
        message = "gives its place back, as compute.nodes has changed, and then asks for another"
        return _wait(situation, ConditionReason.QUEUED, message, actions=(build_delete(place),))
    if is_admitted(place):
        return None
    workload = situation.observed.kueue.workload
    refusal = kueue_messages.describe_refusal(workload) if workload else None
    if refusal is not None:
        return replace(_wait(situation, ConditionReason.REFUSED, refusal), is_stalled=True)
    if any(pods.is_alive(pod, situation.now) for pod in situation.train_pods):
        return _wait(situation, *kueue_messages.describe_eviction(situation))
    return _wait(situation, ConditionReason.QUEUED, kueue_messages.describe_wait(situation))


def _ask_for_place(situation: Situation) -> Decision:
    queue, kinds = situation.spec.queue, situation.observed.kueue.priority_kinds
    if queue.priority_class_name is not None and kinds is not None and not kinds:
        message = (
            "queue.priorityClassName: the cluster has neither a WorkloadPriorityClass nor a PriorityClass "
            f"{queue.priority_class_name}: create one of them, and this run goes on"
        )
        return _wait(situation, ConditionReason.PRIORITY_CLASS_NOT_FOUND, message)
    action = Create(build_place(situation.run, situation.spec, situation.settings, kinds))
    return _wait(
        situation, ConditionReason.QUEUED, f"asks Kueue for a place in LocalQueue {queue.name}", actions=(action,)
    )


def should_start_in_place(situation: Situation) -> Decision | None:
    """Start the next attempt as without Kueue, but controlled by the place."""
    place = situation.place_job
    if situation.spec.queue.name is None or place is None:
        return None
    decision = lifecycle.should_start_attempt(situation)
    actions = tuple(
        Create(_put_under(place, action.manifest))
        if isinstance(action, Create) and _is_job(action.manifest)
        else action
        for action in decision.actions
    )
    return replace(decision, actions=actions)


def _wait(
    situation: Situation,
    reason: ConditionReason,
    message: str,
    changes: Mapping[str, object] = MappingProxyType({}),
    actions: tuple[Action, ...] = (),
) -> Decision:
    position = situation.observed.kueue.position
    place = QueuePlace(position=None if position is None else position.in_queue, message=message)
    return Decision(
        Phase.QUEUED,
        reason,
        message,
        changes={"queue": place, **changes},
        actions=actions,
        requeue_at=situation.now + RECHECK,
    )


# ----------------------------------------------------------------------------------------------- the place's controller


def keep_place(situation: Situation) -> tuple[Action, ...]:
    """Do what Kueue expects of a place's controller: count its pods in its status, and delete it once it has no use.

    While `active` is not 0 an evicted place keeps its quota: whoever preempts it starts when the checkpoint is saved.
    Kueue's waitForPodsReady reads `ready`.
    """
    place, spec = situation.place_job, situation.run.spec
    if place is None or pods.is_deleting(place):
        return ()
    holding = [pod for pod in situation.train_pods if _holds(situation, pod)]
    if not holding and (spec is None or spec.suspend or is_finished(situation.run.status)):
        return (build_delete(place),)
    ready = [pod for pod in holding if pods.has_started(pod) and pods.attempt_of(pod) == situation.attempt]
    stored, counts = place.get("status", {}), {"active": len(holding), "ready": len(ready)}
    if counts == {name: stored.get(name, 0) for name in counts}:
        return ()
    metadata = place["metadata"]
    return (PatchStatus("Job", metadata["name"], metadata["resourceVersion"], counts),)


def _holds(situation: Situation, pod: Manifest) -> bool:
    """Return whether the pod counts as active: a rank that has ended well still waits for the others."""
    end = pods.read_termination(pod)
    has_done_well = end is not None and end.exit_code == 0 and pods.attempt_of(pod) == situation.attempt
    return pods.is_alive(pod, situation.now) or (has_done_well and situation.is_attempting)


# -------------------------------------------------------------------------------------------------------------- objects


def build_place(
    run: Run, spec: TrainingRunSpec, settings: Settings, priority_kinds: frozenset[str] | None = None
) -> Manifest:
    """Build the Job that holds what an attempt takes; no pod is made of it.

    Args:
        run: whose place it is.
        spec: of the run.
        settings: the administrator's.
        priority_kinds: the kinds of class that queue.priorityClassName names; None where they may not be read.
    """
    job = manifests.build_train_job(run, spec, settings, attempt=0)
    labels = {LABEL_RUN_UID: run.uid, LABEL_RUN: run.name}
    if priority_kinds is not None and "PriorityClass" not in priority_kinds:
        job["spec"]["template"]["spec"].pop("priorityClassName", None)
    if priority_kinds and "WorkloadPriorityClass" in priority_kinds:
        job["metadata"]["labels"][LABEL_PRIORITY] = spec.queue.priority_class_name
    metadata, body = job["metadata"], job["spec"]
    del metadata["labels"][LABEL_ATTEMPT]
    metadata["labels"] |= {LABEL_ROLE: Role.PLACE.value, LABEL_QUEUE: spec.queue.name}
    body["template"]["metadata"] = {"labels": labels}
    return job | {
        "metadata": metadata | {"name": f"{run.name}-place"},
        "spec": body | {"suspend": True, "managedBy": MANAGER},
    }


def _put_under(place: Manifest, job: Manifest) -> Manifest:
    """Return the attempt's Job as controlled by the place, with what Kueue has put into the place's pod template.

    The run owns it as well, so that it outlives the place: its pods save, and its logs stay.
    """
    metadata, template, given = job["metadata"], job["spec"]["template"], place["spec"]["template"]
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": place["metadata"]["name"],
        "uid": place["metadata"]["uid"],
    }
    owners = [owner | {"controller": True, "blockOwnerDeletion": False}]
    owners += [run | {"controller": False} for run in metadata["ownerReferences"]]
    labels = {
        name: value for name, value in given["metadata"].get("labels", {}).items() if not _is_job_controllers(name)
    }
    template_metadata = {
        "labels": labels | template["metadata"]["labels"],
        "annotations": given["metadata"].get("annotations", {}),
    }
    placement = {field: given["spec"][field] for field in _PLACEMENT_FIELDS if field in given["spec"]}
    template = template | {"metadata": template_metadata, "spec": template["spec"] | placement}
    return job | {"metadata": metadata | {"ownerReferences": owners}, "spec": job["spec"] | {"template": template}}


def _is_job_controllers(label: str) -> bool:
    return label in _JOB_CONTROLLERS_LABELS or label.startswith("batch.kubernetes.io/")


def _is_job(manifest: Manifest) -> bool:
    return bool(manifest["kind"] == "Job")


def is_suspended(job: Manifest) -> bool:
    """Return whether a Job may have no pods now; of a run's Jobs only Kueue suspends any."""
    return bool(job["spec"].get("suspend", False))


def is_admitted(place: Manifest) -> bool:
    """Return whether Kueue has admitted the run, and has not evicted it since."""
    return not is_suspended(place) and not pods.is_deleting(place)
