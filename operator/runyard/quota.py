"""What ResourceQuotas leave, and who is next: the arithmetic of gang admission. Pure.

The API server charges a pod when it is created, and a Job's pods are created after the Job. So what a quota has left
for one more gang is

    hard - used - what Jobs that are there have not taken yet - what the runs ahead in the queue are going to take

and a gang starts only if all of it fits. A run ahead counts as if it had started, so that a smaller one behind it can
take nothing that it needs, while one that uses other things need not wait. A gang that no empty quota could hold blocks
nobody.

Counted are all amounts of pods that a quota can name (cpu, memory, requests.*, limits.*, hugepages-*, extended
resources, pods, count/pods) and count/jobs.batch; the scopes PriorityClass, Terminating, BestEffort, their opposites
and CrossNamespacePodAffinity. Not counted is what is decided only when a pod is created: defaults of a LimitRange, the
overhead of a RuntimeClass, containers that a webhook puts in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from runyard import pods
from runyard.times import parse_time
from runyard.world import Manifest

Usage = dict[str, Decimal]
"""Amounts by the name that a quota has for them."""

_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(_DECIMAL, -3)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(_BINARY, 1)},
}
_NATIVE = ("cpu", "memory", "ephemeral-storage")


# -------------------------------------------------------------------------------------------------------------- amounts


def parse_quantity(text: str | int | float) -> Decimal:
    """As Kubernetes writes amounts: 500m, 1.5Gi, 2e3. Raises ValueError."""
    text = str(text)
    number = text.rstrip("numkMGTPEi")
    try:
        return Decimal(number) * _FACTORS[text[len(number) :]]
    except (ArithmeticError, KeyError):
        raise ValueError(f"{text!r} is no quantity") from None


def format_quantity(amount: Decimal, resource: str) -> str:
    """For people: memory in its largest whole binary unit, the rest as a number."""
    if any(kind in resource for kind in ("memory", "storage", "hugepages")):
        for suffix in ("Ti", "Gi", "Mi", "Ki"):
            if abs(amount) >= _FACTORS[suffix]:
                return f"{round(amount / _FACTORS[suffix], 1).normalize():f}{suffix}"
    return f"{round(amount, 3).normalize():f}"


def name_for_people(resource: str) -> str:
    """`requests.nvidia.com/gpu` is nvidia.com/gpu."""
    return resource.removeprefix("requests.")


def add(*usages: Usage) -> Usage:
    """Their sum."""
    names = {name for usage in usages for name in usage}
    return {name: sum((usage.get(name, Decimal()) for usage in usages), Decimal()) for name in names}


def times(usage: Usage, number: int) -> Usage:
    """So many of it."""
    return {name: amount * number for name, amount in usage.items()}


def beyond(usage: Usage, taken: Usage) -> Usage:
    """What of `usage` is not in `taken`."""
    return {name: max(Decimal(), amount - taken.get(name, Decimal())) for name, amount in usage.items()}


# ----------------------------------------------------------------------------------------------------------------- pods


def count_pod(spec: dict[str, Any]) -> Usage:
    """What a pod with this spec is charged, by every name that a quota may have for it."""
    usage: Usage = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for kind in ("requests", "limits"):
        for name, amount in _sum_containers(spec, kind).items():
            usage[f"{kind}.{name}"] = amount
            if kind == "requests" and (name in _NATIVE or name.startswith("hugepages-")):
                usage[name] = amount
    return usage


def _sum_containers(spec: dict[str, Any], kind: str) -> Usage:
    """Containers and sidecars together, or, where it is more, what one that runs before them takes."""
    peaks: list[Usage] = []
    sidecars: Usage = {}
    for container in spec.get("initContainers") or ():
        peak = add(sidecars, _read_amounts(container, kind))
        peaks.append(peak)
        if container.get("restartPolicy") == "Always":
            sidecars = peak
    peaks.append(add(sidecars, *(_read_amounts(container, kind) for container in spec["containers"])))
    return {name: max(peak.get(name, Decimal()) for peak in peaks) for name in add(*peaks)}


def _read_amounts(container: dict[str, Any], kind: str) -> Usage:
    resources = container.get("resources") or {}
    amounts = resources.get(kind) or {}
    if kind == "requests":  # what has a limit and no request asks for its limit
        amounts = {**(resources.get("limits") or {}), **amounts}
    return {name: parse_quantity(amount) for name, amount in amounts.items()}


def is_charged(pod: Manifest, now: datetime) -> bool:
    """Whether a quota still counts the pod: not once it has ended, or is overdue on a node that is gone."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    metadata = pod["metadata"]
    if not pods.is_deleting(pod):
        return True
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return now <= parse_time(metadata["deletionTimestamp"]) + grace


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
        """Whether pods with this spec are charged here."""
        return all(_matches(scope, spec, priority_class) for scope in self.scopes)


def read_quota(manifest: Manifest) -> Quota:
    """As stored. Until the quota's own controller has seen it, nothing is known to be used."""
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
    amounts = [usage for each in containers for kind in ("requests", "limits") if (usage := _read_amounts(each, kind))]
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
    """Pods that start together, or wait together."""

    pod_spec: dict[str, Any]
    num_pods: int
    num_charged_pods: int = 0
    """Pods whose place these take, or that are these, which the quotas count already."""
    num_jobs: int = 0
    """Jobs to be made for it."""
    priority_class: str | None = None

    def count(self, quota: Quota) -> Usage:
        """All of it, as far as the quota counts it."""
        return _only(quota, add(self._count_pods(quota, self.num_pods), {"count/jobs.batch": Decimal(self.num_jobs)}))

    def count_missing(self, quota: Quota) -> Usage:
        """What of it the quota does not count yet."""
        return beyond(self.count(quota), self._count_pods(quota, self.num_charged_pods))

    def _count_pods(self, quota: Quota, number: int) -> Usage:
        if not quota.covers(self.pod_spec, self.priority_class):
            return {}
        return times(count_pod(self.pod_spec), number)


def _only(quota: Quota, usage: Usage) -> Usage:
    return {name: amount for name, amount in usage.items() if amount and name in quota.hard}


@dataclass(frozen=True)
class Shortage:
    """What a gang needs of one thing, and what there is of it."""

    quota: str
    resource: str
    needed: Decimal
    free: Decimal
    """Nobody uses it and no Job that is there is about to, whoever waits."""
    hard: Decimal

    @property
    def is_hopeless(self) -> bool:
        """It does not fit even while nothing else runs."""
        return self.needed > self.hard

    @property
    def fits_now(self) -> bool:
        """It would, but for the runs ahead."""
        return self.needed <= self.free


def find_shortages(
    gang: Gang, quotas: Iterable[Quota], holders: Sequence[Gang] = (), ahead: Sequence[Gang] = ()
) -> list[Shortage]:
    """What keeps the gang from starting; the worst first, and of these what names GPUs.

    Args:
        gang: that wants to start.
        quotas: of its namespace.
        holders: the pods of Jobs that are there: what is not charged of these will be.
        ahead: those that wait and come first.
    """
    quotas = tuple(quotas)
    waiting = [each for each in ahead if not is_hopeless(each, quotas)]
    found = []
    for quota in quotas:
        held = add(*(each.count_missing(quota) for each in holders))
        claimed = add(*(each.count_missing(quota) for each in waiting))
        for name, needed in gang.count(quota).items():
            free = quota.hard[name] - quota.used.get(name, Decimal()) - held.get(name, Decimal())
            if needed > free - claimed.get(name, Decimal()):
                found.append(Shortage(quota.name, name, needed, max(Decimal(), free), quota.hard[name]))
    return sorted(found, key=_badness)


def _badness(shortage: Shortage) -> tuple[bool, bool, bool, str]:
    return (not shortage.is_hopeless, shortage.fits_now, "/" not in shortage.resource, shortage.resource)


def is_hopeless(gang: Gang, quotas: Iterable[Quota]) -> bool:
    """No empty quota could hold it."""
    return any(needed > quota.hard[name] for quota in quotas for name, needed in gang.count(quota).items())


@dataclass(frozen=True)
class Ticket:
    """A place in the queue of a namespace."""

    key: str
    is_admitted: bool
    """It has run before and goes on: it keeps its place before those that have not."""
    priority: int
    created: str
    gang: Gang

    @property
    def order(self) -> tuple[bool, int, str, str]:
        """The smaller comes first: by priority, then by age."""
        return (not self.is_admitted, -self.priority, self.created, self.key)


def find_ahead(ticket: Ticket, others: Iterable[Ticket]) -> list[Ticket]:
    """Those that come before, first first."""
    return sorted((each for each in others if each.order < ticket.order), key=lambda each: each.order)
