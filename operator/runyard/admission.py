"""The rules of waiting for quota: which runs of the namespace hold what, who is ahead, and how that is told. Pure.

A run that has started once keeps Admitted until it ends or is suspended: between two attempts its place is reserved,
and its next attempt comes before every run that has not started yet. What another run needs is what the rules would
create for it, so that there is one place that says what an attempt is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from runyard import pods, rules
from runyard.api import ConditionType, Phase, QueueStatus, Role
from runyard.quota import (
    Gang,
    Quota,
    Shortage,
    Ticket,
    find_ahead,
    find_shortages,
    format_quantity,
    is_charged,
    name_for_people,
    read_quota,
)
from runyard.situation import Situation
from runyard.status import Decision, find_condition, is_finished, is_true
from runyard.world import Create, Manifest, Observed, Run, Tenancy

RECHECK_S = 30
"""Quotas are watched; this is for what changes without them."""


# ---------------------------------------------------------------------------------------------------------------- rules


def is_preparation_blocked(situation: Situation) -> Decision | None:
    """The prepare Job is there, and quota keeps its pod from being made."""
    job, tenancy = situation.prepare_job, situation.observed.tenancy
    if situation.is_prepared or job is None or tenancy is None or not pods.is_live(job) or situation.prepare_pods:
        return None
    namespace = _Namespace(situation, tenancy)
    shortages = find_shortages(namespace.gang_of(job), namespace.quotas)
    if not shortages:
        return None
    message = f"the pod that prepares the data {_describe(shortages, situation.run.namespace)}"
    return Decision(Phase.PREPARING, "QuotaExceeded", message, requeue_at=situation.now + timedelta(seconds=RECHECK_S))


def is_queued(situation: Situation) -> Decision | None:
    """Not all pods of the next attempt fit what the namespace's quotas leave after those that come first."""
    tenancy = situation.observed.tenancy
    if tenancy is None:
        return None
    namespace = _Namespace(situation, tenancy)
    missing = namespace.find_missing_priority_class(situation.run)
    if missing is not None:
        message = f"there is no PriorityClass {missing}, which queue.priorityClassName names: create it"
        return _queue(situation, "PriorityClassMissing", 0, message)
    ticket = namespace.ticket_of(situation)
    ahead = find_ahead(ticket, namespace.others)
    shortages = find_shortages(ticket.gang, namespace.quotas, namespace.holders, [each.gang for each in ahead])
    if not shortages:
        return None
    message = _describe(shortages, situation.run.namespace)
    if shortages[0].is_hopeless:
        hint = f": lower compute.nodes, or have ResourceQuota {shortages[0].quota} raised"
        return _queue(situation, "ExceedsQuota", 0, message + hint, is_stalled=True)
    message += _describe_ahead(len(ahead)) + _describe_leftovers(situation)
    return _queue(situation, "WaitingForQuota", len(ahead), message)


def _queue(situation: Situation, reason: str, position: int, message: str, *, is_stalled: bool = False) -> Decision:
    return Decision(
        Phase.QUEUED,
        reason,
        message,
        changes={"queue": QueueStatus(position=position, message=message), "next_attempt_time": None},
        requeue_at=situation.now + timedelta(seconds=RECHECK_S),
        is_stalled=is_stalled,
    )


# ---------------------------------------------------------------------------------------------------------------- words


def _describe(shortages: list[Shortage], namespace: str) -> str:
    """The worst alone, and in words: needs 16 nvidia.com/gpu, team-a has 8 of 32 free."""
    worst = shortages[0]
    resource = name_for_people(worst.resource)
    needed, free, hard = (format_quantity(amount, resource) for amount in (worst.needed, worst.free, worst.hard))
    if worst.is_hopeless:
        return f"needs {needed} {resource}, {namespace} has {hard} in all"
    return f"needs {needed} {resource}, {namespace} has {free} of {hard} free"


def _describe_ahead(number: int) -> str:
    return f"; {number} run{'s' if number > 1 else ''} ahead" if number else ""


def _describe_leftovers(situation: Situation) -> str:
    """Pods of an earlier attempt hold the quota until they are gone."""
    old = [pod for pod in situation.train_pods if is_charged(pod, situation.now)]
    if not old:
        return ""
    names = ", ".join(sorted(pod["metadata"]["name"] for pod in old))
    return f"; pods of attempt {max(map(pods.attempt_of, old))} that have not ended yet still hold quota: {names}"


# ------------------------------------------------------------------------------------------------------------ namespace


@dataclass(frozen=True)
class _Namespace:
    """The runs that share quotas with one run, seen from it."""

    situation: Situation
    tenancy: Tenancy

    @cached_property
    def quotas(self) -> list[Quota]:
        return [read_quota(manifest) for manifest in self.tenancy.quotas]

    @cached_property
    def holders(self) -> list[Gang]:
        """Jobs at work, of whichever run: their pods are charged or about to be."""
        settled = {run.uid: run.status.ended_attempt for run in self.tenancy.runs}
        return [
            self.gang_of(job)
            for job in self.tenancy.jobs
            if pods.is_live(job)
            and (pods.role_of(job) == Role.PREPARE or pods.attempt_of(job) > settled.get(pods.run_uid_of(job), 0))
        ]

    @cached_property
    def others(self) -> list[Ticket]:
        """Runs that wait, or that are between two attempts."""
        return [self.ticket_of(other) for run in self.tenancy.runs if (other := self._wait_of(run)) is not None]

    def gang_of(self, job: Manifest) -> Gang:
        """The pods of a Job that is there."""
        return self._build_gang(job, pods.pods_of(job, self.tenancy.pods), num_jobs=0)

    def ticket_of(self, situation: Situation) -> Ticket:
        """The place of a run that may start, for all that its next attempt takes."""
        run = situation.run
        job = next(
            action.manifest
            for action in rules.should_start_attempt(situation).actions
            if isinstance(action, Create) and action.manifest["kind"] == "Job"
        )
        return Ticket(
            key=f"{run.namespace}/{run.name}",
            is_admitted=is_true(run.status, ConditionType.ADMITTED),
            priority=self._read_priority(run),
            created=run.created,
            gang=self._build_gang(job, situation.train_pods, num_jobs=1),
        )

    def find_missing_priority_class(self, run: Run) -> str | None:
        """The class that the run names, where it is known that there is none."""
        name = run.spec.queue.priority_class_name if run.spec else None
        classes = self.tenancy.priority_classes
        return name if name and classes is not None and name not in _names(classes) else None

    def _wait_of(self, run: Run) -> Situation | None:
        """The situation of another run that may start as soon as there is quota; None where something else stops it."""
        is_own = run.uid == self.situation.run.uid
        if is_own or run.deleting or run.spec is None or run.spec.suspend or is_finished(run.status):
            return None
        jobs = tuple(job for job in self.tenancy.jobs if pods.run_uid_of(job) == run.uid)
        own_pods = tuple(pod for pod in self.tenancy.pods if pods.run_uid_of(pod) == run.uid)
        other = Situation(run, Observed(jobs=jobs, pods=own_pods), self.situation.settings, self.situation.now)
        if other.is_attempting or not is_true(run.status, ConditionType.PREPARED) or _is_stuck(run):
            return None
        return None if self.find_missing_priority_class(run) else other

    def _build_gang(self, job: Manifest, its_pods: Iterable[Manifest], num_jobs: int) -> Gang:
        template = job["spec"]["template"]["spec"]
        return Gang(
            pod_spec=template,
            num_pods=job["spec"]["parallelism"],
            num_charged_pods=sum(is_charged(pod, self.situation.now) for pod in its_pods),
            num_jobs=num_jobs,
            priority_class=template.get("priorityClassName") or self._default_class,
        )

    def _read_priority(self, run: Run) -> int:
        name = (run.spec.queue.priority_class_name if run.spec else None) or self._default_class
        classes = self.tenancy.priority_classes or ()
        return next((int(each["value"]) for each in classes if each["metadata"]["name"] == name), 0)

    @cached_property
    def _default_class(self) -> str | None:
        """What a pod gets that names none."""
        classes = self.tenancy.priority_classes or ()
        return next((each["metadata"]["name"] for each in classes if each.get("globalDefault")), None)


def _names(manifests: Iterable[Manifest]) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests}


def _is_stuck(run: Run) -> bool:
    """The API server refuses what it needs: it would hold up those behind it for as long as that lasts."""
    ready = find_condition(run.status, ConditionType.READY)
    return ready is not None and ready.reason in ("NameConflict", "ApplyFailed")
