"""The arithmetic of gang admission: what ResourceQuotas leave, and who is next.

The API server charges a pod when it is created, and a Job's pods are created after the Job. So a quota leaves for one
more gang

    hard - used - what existing Jobs have not taken yet - what the runs ahead in the queue are going to take

and a gang starts only if all of it fits. A run ahead counts as if it had started, so that a smaller one behind it
cannot take what it needs, while one that uses other resources need not wait. A gang that does not even fit an empty
quota blocks nobody.

All quota scopes that concern pods are evaluated: PriorityClass, Terminating, BestEffort, their opposites and
CrossNamespacePodAffinity. Besides pods, a quota may name count/jobs.batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runyard.decide.quota.quantities import Usage, add, beyond, count_pod, parse_quantity, read_amounts, times
from runyard.decide.values import Manifest

# --------------------------------------------------------------------------------------------------------------- quotas


@dataclass(frozen=True)
class Quota:
    """A ResourceQuota."""

    name: str
    hard: Usage
    used: Usage
    scopes: tuple[dict[str, Any], ...] = ()
    """All must match: {scopeName, operator, values}."""

    def covers(self, spec: dict[str, Any], priority_class: str | None) -> bool:
        """Return whether pods with this spec are charged here."""
        return all(_matches(scope, spec, priority_class) for scope in self.scopes)


def read_quota(manifest: Manifest) -> Quota:
    """Read a quota as stored. Until the quota's own controller has seen it, nothing counts as used."""
    spec, status = manifest["spec"], manifest.get("status") or {}
    selector = (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    named = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or []]
    return Quota(
        name=manifest["metadata"]["name"],
        hard={name: parse_quantity(amount) for name, amount in (spec.get("hard") or {}).items()},
        used={name: parse_quantity(amount) for name, amount in (status.get("used") or {}).items()},
        scopes=(*named, *selector),
    )


def _matches(scope: dict[str, Any], spec: dict[str, Any], priority_class: str | None) -> bool:
    match scope["scopeName"]:
        case "Terminating":
            return spec.get("activeDeadlineSeconds") is not None
        case "NotTerminating":
            return spec.get("activeDeadlineSeconds") is None
        case "BestEffort":
            return _is_best_effort(spec)
        case "NotBestEffort":
            return not _is_best_effort(spec)
        case "PriorityClass":
            return _selects(scope, priority_class)
        case "CrossNamespacePodAffinity":
            return _reaches_other_namespaces(spec)
    return False  # of volumes


def _is_best_effort(spec: dict[str, Any]) -> bool:
    containers = [*spec["containers"], *(spec.get("initContainers") or ())]
    amounts = [usage for each in containers for kind in ("requests", "limits") if (usage := read_amounts(each, kind))]
    return not any(usage.get(name) for usage in amounts for name in ("cpu", "memory"))


def _selects(scope: dict[str, Any], value: str | None) -> bool:
    match scope["operator"]:
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "In":
            return value in scope["values"]
        case _:
            return value not in scope["values"]


def _reaches_other_namespaces(spec: dict[str, Any]) -> bool:
    affinity = spec.get("affinity") or {}
    terms = [
        term.get("podAffinityTerm", term)
        for kind in ("podAffinity", "podAntiAffinity")
        for terms in (affinity.get(kind) or {}).values()
        for term in terms
    ]
    return any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms)


# ------------------------------------------------------------------------------------------------------------ the queue


@dataclass(frozen=True)
class Gang:
    """A group of pods that start together, or wait together."""

    pod_spec: dict[str, Any]
    num_pods: int
    num_charged_pods: int = 0
    """Pods whose place these take, or that are these, which the quotas count already."""
    num_jobs: int = 0
    """Jobs to be made for it."""
    priority_class: str | None = None

    def count(self, quota: Quota) -> Usage:
        """Return what the quota counts of the whole gang."""
        return _only(quota, add(self._count_pods(quota, self.num_pods), {"count/jobs.batch": Decimal(self.num_jobs)}))

    def count_missing(self, quota: Quota) -> Usage:
        """Return what the quota does not count of the gang yet."""
        return beyond(self.count(quota), self._count_pods(quota, self.num_charged_pods))

    def _count_pods(self, quota: Quota, number: int) -> Usage:
        if not quota.covers(self.pod_spec, self.priority_class):
            return {}
        return times(count_pod(self.pod_spec), number)


def _only(quota: Quota, usage: Usage) -> Usage:
    return {name: amount for name, amount in usage.items() if amount and name in quota.hard}


@dataclass(frozen=True)
class Shortage:
    """A resource of which a gang needs more than there is."""

    quota: str
    resource: str
    needed: Decimal
    free: Decimal
    """Neither used nor about to be taken by a Job that is there; runs that wait are not considered."""
    hard: Decimal

    @property
    def is_hopeless(self) -> bool:
        """Return whether it does not fit even while nothing else runs."""
        return self.needed > self.hard

    @property
    def fits_now(self) -> bool:
        """Return whether it would fit without the runs ahead."""
        return self.needed <= self.free


def find_shortages(
    gang: Gang, quotas: Sequence[Quota], holders: Sequence[Gang] = (), ahead: Sequence[Gang] = ()
) -> list[Shortage]:
    """Return what keeps the gang from starting, the worst first, and of equally bad ones GPUs first.

    Args:
        gang: that wants to start.
        quotas: of its namespace.
        holders: the gangs of Jobs that are there: those of their pods that are not charged yet will be.
        ahead: those that wait and come first.
    """
    holding = [each for each in holders if not is_hopeless(each, quotas)]
    found = []
    for quota in quotas:
        held = add(*(each.count_missing(quota) for each in holding))
        claimed = add(*(each.count_missing(quota) for each in ahead))
        for name, needed in gang.count(quota).items():
            free = quota.hard[name] - quota.used.get(name, Decimal()) - held.get(name, Decimal())
            if needed > free - claimed.get(name, Decimal()):
                found.append(Shortage(quota.name, name, needed, max(Decimal(), free), quota.hard[name]))
    return sorted(found, key=_badness)


def _badness(shortage: Shortage) -> tuple[bool, bool, bool, str]:
    return (not shortage.is_hopeless, shortage.fits_now, "/" not in shortage.resource, shortage.resource)


def is_hopeless(gang: Gang, quotas: Sequence[Quota]) -> bool:
    """Return whether an empty quota could not hold it."""
    return any(needed > quota.hard[name] for quota in quotas for name, needed in gang.count(quota).items())


@dataclass(frozen=True)
class Ticket:
    """A place in the queue of a namespace."""

    key: str
    is_admitted: bool
    """Whether it has run before and goes on: it keeps its place before those that have not."""
    priority: int
    created: str
    gang: Gang

    @property
    def order(self) -> tuple[bool, int, str, str]:
        """Return the sort key: by priority, then by age."""
        return (not self.is_admitted, -self.priority, self.created, self.key)


def find_ahead(ticket: Ticket, others: Iterable[Ticket], quotas: Sequence[Quota]) -> list[Ticket]:
    """Return those that come before it and could ever start, in their order."""
    before = (each for each in others if each.order < ticket.order and not is_hopeless(each.gang, quotas))
    return sorted(before, key=lambda each: each.order)
