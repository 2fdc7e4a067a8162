"""The rules of waiting for quota: what the runs of the namespace hold, which of them are ahead, and the messages.

A run that has started keeps its place until it ends or is suspended: between two attempts its quota is reserved, and
its next attempt comes before every run that has not started yet. Two runs that are both between attempts are in the
usual order, so that they cannot wait for each other. What another run needs is what the rules would create for it. The
arithmetic is in `decide.quota`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from runyard.api.reasons import ConditionReason
from runyard.api.trainingrun import ConditionType, Phase, QueuePlace, Role, TrainingRunStatus
from runyard.decide.facts import pods
from runyard.decide.quota.gangs import Gang, Quota, Shortage, Ticket, find_ahead, find_shortages, read_quota
from runyard.decide.quota.quantities import format_quantity, is_charged, name_for_people
from runyard.decide.rules import lifecycle
from runyard.decide.situation import Situation, build_delete
from runyard.decide.status import find_condition, is_finished
from runyard.decide.values import Action, Create, Decision, Manifest, Namespace, Observed, Run

RECHECK = timedelta(seconds=30)
"""How soon a waiting run is reconciled again: quotas and runs are watched, PriorityClasses are not."""


# ---------------------------------------------------------------------------------------------------------------- rules


def is_preparation_blocked(situation: Situation) -> Decision | None:
    """Wait where quota keeps the pod of the prepare Job from being made."""
    job, namespace = situation.prepare_job, situation.observed.namespace
    if situation.is_prepared or job is None or not pods.is_live(job) or situation.prepare_pods:
        return None
    if namespace is None:
        return _ask_for_namespace(situation)
    view = _NamespaceView(situation, namespace)
    shortages = find_shortages(view.gang_of(job), view.quotas)
    if not shortages:
        return None
    message = f"the pod that prepares the data {_describe(shortages[0], situation.run.namespace, 'prepare.resources')}"
    return Decision(Phase.PREPARING, ConditionReason.QUOTA_EXCEEDED, message, requeue_at=situation.now + RECHECK)


def waits_for_budget(situation: Situation) -> Decision | None:
    """Wait while a GPUBudget lets no further run start, holding no place in a queue of Kueue.

    A run that has started goes on.
    """
    block = situation.observed.budget_block
    if block is None or keeps_admission(situation.run.status, is_suspended=False):
        return None
    place = situation.place_job
    actions = (build_delete(place),) if place is not None and not pods.is_deleting(place) else ()
    return _wait(situation, ConditionReason.BUDGET_USED_UP, None, block, actions=actions)


def waits_for_quota(situation: Situation) -> Decision | None:
    """Wait while not all pods of the next attempt fit what the namespace's quotas leave after the runs ahead."""
    namespace = situation.observed.namespace
    if namespace is None:
        return _ask_for_namespace(situation)
    view = _NamespaceView(situation, namespace)
    missing = view.find_missing_priority_class(situation)
    if missing is not None:
        message = f"queue.priorityClassName: the cluster has no PriorityClass {missing}"
        return _wait(
            situation, ConditionReason.PRIORITY_CLASS_NOT_FOUND, 0, f"{message}: create it, and this run goes on"
        )
    ticket = view.ticket_of(situation)
    ahead = find_ahead(ticket, view.others, view.quotas)
    shortages = find_shortages(ticket.gang, view.quotas, view.holders, [each.gang for each in ahead])
    if not shortages:
        return None
    message = _describe(shortages[0], situation.run.namespace)
    if shortages[0].is_hopeless:
        return _wait(situation, ConditionReason.EXCEEDS_QUOTA, 0, message, is_stalled=True)
    message += _describe_ahead(len(ahead)) + _describe_leftovers(situation)
    return _wait(situation, ConditionReason.QUEUED, len(ahead), message)


def _ask_for_namespace(situation: Situation) -> Decision:
    return Decision(
        situation.known.phase or Phase.PENDING, ConditionReason.ADMITTING, "looking for room", needs_namespace=True
    )


def _wait(
    situation: Situation,
    reason: ConditionReason,
    position: int | None,
    message: str,
    *,
    is_stalled: bool = False,
    actions: tuple[Action, ...] = (),
) -> Decision:
    return Decision(
        Phase.QUEUED,
        reason,
        message,
        changes={"queue": QueuePlace(position=position, message=message)},
        actions=actions,
        requeue_at=situation.now + RECHECK,
        is_stalled=is_stalled,
    )


# ------------------------------------------------------------------------------------------------------------- messages


def _describe(worst: Shortage, namespace: str, asked: str = "what compute asks for") -> str:
    """Describe what is missing: `needs 16 nvidia.com/gpu, team-a has 8 of 32 free`.

    Args:
        worst: of the shortages.
        namespace: whose quota it is.
        asked: what a person may lower.
    """
    resource = name_for_people(worst.resource)
    needed, free, hard = (format_quantity(amount, resource) for amount in (worst.needed, worst.free, worst.hard))
    if worst.is_hopeless:
        hint = f"lower {asked}, or have ResourceQuota {worst.quota} raised"
        return f"needs {needed} {resource}, {namespace} has {hard} in all: {hint}"
    return f"needs {needed} {resource}, {namespace} has {free} of {hard} free"


def _describe_ahead(number: int) -> str:
    return f"; {number} run{'s' if number > 1 else ''} ahead" if number else ""


def _describe_leftovers(situation: Situation) -> str:
    """Name the pods of an earlier attempt that hold quota until they are gone."""
    old = sorted(pod["metadata"]["name"] for pod in situation.train_pods if is_charged(pod, situation.now))
    return f"; {', '.join(old)} of an earlier attempt still hold part of it" if old else ""


# ------------------------------------------------------------------------------------------------------- the namespace


@dataclass(frozen=True)
class _NamespaceView:
    """The runs that share quotas with one run, as far as its admission depends on them."""

    situation: Situation
    namespace: Namespace

    @cached_property
    def quotas(self) -> Sequence[Quota]:
        return [read_quota(manifest) for manifest in self.namespace.quotas]

    @cached_property
    def holders(self) -> list[Gang]:
        """Return the Jobs at work, of any run: their pods are charged or about to be."""
        return [self.gang_of(job) for job in self.namespace.jobs if self._is_at_work(job)]

    @cached_property
    def others(self) -> list[Ticket]:
        """Return the runs that wait, or that are between two attempts."""
        return [self.ticket_of(other) for run in self.namespace.runs if (other := self._find_waiting(run)) is not None]

    def gang_of(self, job: Manifest) -> Gang:
        """Return the pods of a Job that is there."""
        return self._build_gang(job, pods.pods_of(job, self.namespace.pods), num_jobs=0)

    def ticket_of(self, situation: Situation) -> Ticket:
        """Return the ticket of a run that may start, for all that its next attempt takes."""
        run = situation.run
        job = next(
            action.manifest
            for action in lifecycle.should_start_attempt(situation).actions
            if isinstance(action, Create) and action.manifest["kind"] == "Job"
        )
        own_pods = [pod for pod in self.namespace.pods if pods.run_uid_of(pod) == run.uid]
        return Ticket(
            key=run.name,
            is_admitted=keeps_admission(run.status, is_suspended=situation.spec.suspend),
            priority=self._read_priority(situation),
            created=run.created,
            gang=self._build_gang(job, [pod for pod in own_pods if pods.role_of(pod) == Role.TRAIN], num_jobs=1),
        )

    def find_missing_priority_class(self, situation: Situation) -> str | None:
        """Return the PriorityClass that the run's pods name, where the cluster is known not to have it."""
        name = situation.attempt_spec.queue.priority_class_name
        classes = self.namespace.priority_classes
        is_known = classes is None or any(each["metadata"]["name"] == name for each in classes)
        return None if is_known else name

    @cached_property
    def _settled_attempts(self) -> dict[str | None, int]:
        return {run.uid: run.status.ended_attempt for run in self.namespace.runs}

    def _is_at_work(self, job: Manifest) -> bool:
        is_settled = pods.attempt_of(job) <= self._settled_attempts.get(pods.run_uid_of(job), 0)
        return pods.is_live(job) and (pods.role_of(job) == Role.PREPARE or not is_settled)

    def _find_waiting(self, run: Run) -> Situation | None:
        """Return the situation of another run that only quota keeps from starting; None for every other run."""
        is_own = run.uid == self.situation.run.uid
        if is_own or run.deleting or run.spec is None or run.spec.suspend or is_finished(run.status):
            return None
        jobs = tuple(job for job in self.namespace.jobs if pods.run_uid_of(job) == run.uid)
        other = Situation(run, Observed(jobs=jobs), self.situation.settings, self.situation.now)
        has_attempt = any(self._is_at_work(job) for job in other.train_jobs)
        is_held_up = _is_stuck(run) or self.find_missing_priority_class(other) or other.lacks_place
        if has_attempt or not other.is_prepared or is_held_up:
            return None
        return other

    def _build_gang(self, job: Manifest, its_pods: Iterable[Manifest], num_jobs: int) -> Gang:
        template = job["spec"]["template"]["spec"]
        return Gang(
            pod_spec=template,
            num_pods=job["spec"]["parallelism"],
            num_charged_pods=sum(is_charged(pod, self.situation.now) for pod in its_pods),
            num_jobs=num_jobs,
            priority_class=template.get("priorityClassName") or self._default_class,
        )

    def _read_priority(self, situation: Situation) -> int:
        name = situation.attempt_spec.queue.priority_class_name or self._default_class
        classes = self.namespace.priority_classes or ()
        return next((int(each["value"]) for each in classes if each["metadata"]["name"] == name), 0)

    @cached_property
    def _default_class(self) -> str | None:
        """Return the PriorityClass of a pod that names none."""
        classes = self.namespace.priority_classes or ()
        return next((each["metadata"]["name"] for each in classes if each.get("globalDefault")), None)


def keeps_admission(known: TrainingRunStatus, *, is_suspended: bool) -> bool:
    """Return whether a run has started and was not told to stop since: it does not queue again."""
    if not known.attempt or is_suspended:
        return False
    is_between = known.attempt == known.ended_attempt
    failure = known.last_failure
    return not is_between or (failure is not None and failure.attempt == known.ended_attempt)


def _is_stuck(run: Run) -> bool:
    """Return whether the API server refuses what the run needs: it would hold up those behind it while that lasts."""
    ready = find_condition(run.status, ConditionType.READY)
    return ready is not None and ready.reason in (ConditionReason.NAME_CONFLICT, ConditionReason.APPLY_FAILED)
