"""When an attempt may start: the whole of it fits the namespace's quotas, and it is this run's turn. Pure.

`quota` has the arithmetic; here the runs of a namespace become its claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from runyard import pods, quota, render, status
from runyard.api import Phase, QueuePlace, TrainingRunStatus
from runyard.quota import Claim
from runyard.situation import Situation
from runyard.status import Decision
from runyard.world import Manifest, Namespace, Run, Settings

POLL = timedelta(seconds=2)
"""How soon a waiting run looks again: what frees quota is no event of its own."""


def waits_for_quota(situation: Situation) -> Decision | None:
    """The attempt that could start now does not fit, or is not the next."""
    namespace, phase = situation.observed.namespace, situation.known.phase or Phase.PENDING
    if namespace is None:
        return Decision(phase, "Admitting", "looking for room", needs_namespace=True)
    name = situation.spec.queue.priority_class_name
    if name is not None and namespace.priority_classes is not None and _find_class(namespace, name) is None:
        message = f"queue.priorityClassName: the cluster has no PriorityClass {name}: create it, and this run goes on"
        return _wait(situation, "PriorityClassNotFound", QueuePlace(message=message))
    wanted = build_claim(situation.run, namespace, situation.settings)
    others = list(_build_claims_of_others(situation.run, namespace, situation.settings))
    verdict = quota.judge(wanted, others, namespace.quotas)
    if verdict.fits:
        return None
    message = f"{verdict.message}{_describe_remains(situation)}"
    return _wait(situation, "Queued", QueuePlace(position=verdict.position, message=message))


def _wait(situation: Situation, reason: str, place: QueuePlace) -> Decision:
    changes = {"queue": place}
    return Decision(Phase.QUEUED, reason, place.message, changes, requeue_at=situation.now + POLL)


def _describe_remains(situation: Situation) -> str:
    """Pods of an earlier attempt hold quota until they are gone."""
    remains = [pod["metadata"]["name"] for pod in situation.train_pods if not pods.is_over(pod)]
    return f"; {', '.join(remains)} of an earlier attempt still take part of it" if remains else ""


def _build_claims_of_others(run: Run, namespace: Namespace, settings: Settings) -> Iterator[Claim]:
    for other in namespace.runs:
        if other.uid == run.uid or other.spec is None or other.deleting or status.is_finished(other.status):
            continue
        claim = build_claim(other, namespace, settings)
        if claim.is_admitted or (other.status.queue is not None and not other.spec.suspend):
            yield claim


def build_claim(run: Run, namespace: Namespace, settings: Settings) -> Claim:
    """What a run takes or wants: a whole attempt, but for the pods of a live one that are there already."""
    assert run.spec is not None
    live = next((job for job in namespace.jobs if pods.run_uid_of(job) == run.uid and pods.is_live(job)), None)
    num_nodes = min(run.status.nodes or run.spec.compute.nodes, run.spec.compute.nodes)
    if live is not None:
        there = [pod for pod in pods.pods_of(live, namespace.pods) if not pods.is_over(pod)]
        num_missing = max(0, int(live["spec"]["completions"]) - len(there))
    else:
        num_missing = num_nodes
    template = render.build_train_job(run, run.spec, settings, 1)["spec"]["template"]["spec"]
    class_name = run.spec.queue.priority_class_name
    return Claim(
        name=run.name,
        priority=_priority_of(namespace, class_name),
        created=run.created,
        per_pod=quota.amounts_of_pod(template),
        per_job={} if live is not None else quota.amounts_of_job(),
        missing_pods=num_missing,
        is_admitted=live is not None or keeps_admission(run.status, is_suspended=run.spec.suspend),
        priority_class=class_name,
    )


def keeps_admission(known: TrainingRunStatus, *, is_suspended: bool) -> bool:
    """Whether a run has started and goes on without having been told to stop: it does not queue again."""
    if not known.attempt or is_suspended:
        return False
    is_between = known.attempt == known.ended_attempt
    failure = known.last_failure
    return not is_between or (failure is not None and failure.attempt == known.ended_attempt)


def _priority_of(namespace: Namespace, name: str | None) -> int:
    found = _find_class(namespace, name)
    return int(found["value"]) if found else 0


def _find_class(namespace: Namespace, name: str | None) -> Manifest | None:
    """The PriorityClass of that name, or the one for pods that name none."""
    for found in namespace.priority_classes or ():
        if found["metadata"]["name"] == name or (name is None and found.get("globalDefault")):
            return found
    return None
