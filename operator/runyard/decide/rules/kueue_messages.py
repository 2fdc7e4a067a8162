"""The messages of a run that queues with Kueue: what Kueue says of it, and what to do where Kueue says nothing."""

from __future__ import annotations

from runyard.api.reasons import ConditionReason
from runyard.decide.facts import pods
from runyard.decide.situation import Situation
from runyard.decide.status import describe_start
from runyard.decide.values import Manifest, QueuePosition


def describe_eviction(situation: Situation) -> tuple[ConditionReason, str]:
    """Describe why an attempt has lost its place, and what follows: reason and message."""
    view = situation.observed.kueue
    evicted = pods.find_condition(view.workload, "Evicted") if view.workload else None
    is_preempted = view.workload is not None and pods.find_condition(view.workload, "Preempted") is not None
    if situation.place_job is None:
        why = "its place in the queue was deleted"
    elif evicted is None:
        why = "Kueue has taken its place back"
    else:
        whom = f"preempted for {view.preemptor}; " if view.preemptor else ""
        why = f"{whom}Kueue says: {evicted['message']}"
    message = (
        f"attempt {situation.attempt} saves a checkpoint and stops: {why}. It is in the queue again, and "
        f"{_describe_return(situation)}"
    )
    return ConditionReason.PREEMPTED if is_preempted else ConditionReason.EVICTED, message


def describe_wait(situation: Situation) -> str:
    """Describe why Kueue has not admitted the run, or not again."""
    workload = situation.observed.kueue.workload
    if workload is None:
        return _describe_silence(situation)
    if pods.find_condition(workload, "QuotaReserved") is None:
        held = pods.find_condition(workload, "QuotaReserved", status="False")
        # Kueue does not even try those that are like one that it has just held
        said = f"Kueue says: {held['message']}" if held else "Kueue has it in the queue"
        position = _describe_position(situation.observed.kueue.position, str(situation.spec.queue.name))
        return f"{said}{position}{_describe_past(situation, workload)}"
    checks = [check for check in _read_checks(workload) if check["state"] != "Ready"]
    if checks:
        return f"Kueue has quota for it and waits for {', '.join(map(_describe_check, checks))}"
    return "Kueue is about to admit it"


def _describe_silence(situation: Situation) -> str:
    queue = situation.spec.queue
    needed = [f"a LocalQueue {queue.name}"]
    if queue.priority_class_name is not None:
        needed.append(f"the class of queue.priorityClassName, {queue.priority_class_name}")
    return (
        "Kueue has not seen it yet: if this stays, check that Kueue runs and manages namespace "
        f"{situation.run.namespace}, and that it has {' and '.join(needed)}"
    )


def _describe_position(position: QueuePosition | None, queue: str) -> str:
    if position is None or position.in_cluster_queue == 0:
        return ""
    others = position.in_cluster_queue - position.in_queue
    beside = f", {others} in other queues of its ClusterQueue" if others else ""
    return f"; {position.in_queue} ahead in queue {queue}{beside}"


def _describe_past(situation: Situation, workload: Manifest) -> str:
    """Describe why a run that has trained does not any more: the Event that says so may be gone."""
    evicted, view = pods.find_condition(workload, "Evicted"), situation.observed.kueue
    if evicted is None or not situation.known.attempt:
        return ""
    what = f"Preempted for {view.preemptor}" if view.preemptor else f"Evicted ({evicted['message']})"
    return f". {what} at {evicted['lastTransitionTime']}: it {_describe_return(situation)}"


def _describe_return(situation: Situation) -> str:
    """Describe where it goes on: maybe later than the newest known step, as the report of the last save can be lost."""
    checkpoint = situation.known.checkpoint
    return f"goes on by itself {describe_start(checkpoint)}{' or later' if checkpoint else ''}"


def describe_refusal(workload: Manifest) -> str | None:
    """Describe why Kueue, or a person, has taken the run out of the queue; None where it is in it."""
    rejected = ", ".join(_describe_check(check) for check in _read_checks(workload) if check["state"] == "Rejected")
    if "multikueue" in rejected.lower():
        return (
            f"Kueue has refused it ({rejected}): runs are not sent to other clusters. Delete it, and make it anew with "
            "a LocalQueue whose ClusterQueue has no MultiKueue check"
        )
    if rejected:
        return f"Kueue has refused it ({rejected}): see to that, or delete it and make it anew with another LocalQueue"
    if workload["spec"].get("active", True):
        return None
    name, evicted = workload["metadata"]["name"], pods.find_condition(workload, "Evicted")
    why = evicted["message"] if evicted else "nobody says why"
    return f"Workload {name} is not active ({why}): set its spec.active to true to go on"


def _read_checks(workload: Manifest) -> list[Manifest]:
    return list(workload.get("status", {}).get("admissionChecks") or ())


def _describe_check(check: Manifest) -> str:
    return f"{check['name']}: {check.get('message') or check['state']}"
