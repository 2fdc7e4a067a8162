"""Whether a whole attempt fits the namespace's ResourceQuotas, and whose turn it is. Pure.

    free       = hard - used                 of each quota that applies to the run's pods, by each resource it names
    reserved   = what runs that were admitted will still take: pods of theirs that are not there yet
    ahead      = what waiting runs in front of this one need, whether or not it is there

A run starts when all of its pods fit into free - reserved - ahead. So no gang starts in part, and the first in the
queue cannot be starved by smaller ones behind it; a run that needs nothing of what those ahead wait for is not held up.
The order is that of PriorityClass values, then of age. A run between two attempts keeps its admission: its pods are
reserved, and it does not queue again.

Of quota scopes, those that can concern training pods are evaluated: Terminating, BestEffort, PriorityClass and their
opposites. Quotas of other scopes are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runyard.world import Manifest

Amounts = dict[str, Decimal]
"""By the names that a quota has for resources: requests.cpu, requests.nvidia.com/gpu, pods..."""

_NONE = Decimal(0)
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{name: Decimal(1000) ** power for power, name in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{name: Decimal(1024) ** power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}


@dataclass(frozen=True)
class Claim:
    """What one run takes or wants of the namespace's quotas."""

    name: str
    priority: int
    """Of its PriorityClass."""
    created: str
    """RFC 3339 UTC, in whole seconds: older runs go first, and of one second those whose name does."""
    per_pod: Amounts
    per_job: Amounts
    missing_pods: int
    """Pods that are not there yet."""
    is_admitted: bool
    """It has started and goes on: it does not queue."""
    priority_class: str | None = None

    @property
    def amounts(self) -> Amounts:
        """What it will still take."""
        if not self.missing_pods:
            return {}
        return self.per_job | {name: amount * self.missing_pods for name, amount in self.per_pod.items()}

    @property
    def rank(self) -> tuple[int, str, str]:
        """The least is the first in the queue."""
        return (-self.priority, self.created, self.name)


@dataclass(frozen=True)
class Verdict:
    """What becomes of a run that wants to start."""

    fits: bool
    position: int = 0
    """In the queue, from 1; 0 for a run that does not queue."""
    message: str = ""


def judge(wanted: Claim, others: Sequence[Claim], quotas: Sequence[Manifest]) -> Verdict:
    """Whether `wanted` may start now, besides all other runs of its namespace that are not finished."""
    ahead = [] if wanted.is_admitted else [other for other in others if is_ahead(other, wanted)]
    position = 0 if wanted.is_admitted else len(ahead) + 1
    taken: Amounts = {}
    for other in (*(other for other in others if other.is_admitted), *ahead):
        for name, amount in other.amounts.items():
            taken[name] = taken.get(name, _NONE) + amount
    lacks = [lack for quota in quotas if applies(quota, wanted) for lack in _find_lacks(wanted.amounts, taken, quota)]
    if not lacks:
        return Verdict(fits=True, position=position)
    behind = f"; {len(ahead)} {'run' if len(ahead) == 1 else 'runs'} ahead" if ahead else ""
    return Verdict(False, position, f"{', and '.join(lacks)}{behind}")


def is_ahead(other: Claim, wanted: Claim) -> bool:
    """Whether it waits in front of it."""
    return not other.is_admitted and other.rank < wanted.rank


def _find_lacks(needed: Amounts, taken: Amounts, quota: Manifest) -> Iterable[str]:
    status = quota.get("status", {})
    used = status.get("used", {})
    for name, text in (status.get("hard") or quota["spec"].get("hard", {})).items():
        hard = parse_quantity(text)
        free = hard - parse_quantity(used.get(name, "0")) - taken.get(_canonical(name), _NONE)
        need = needed.get(_canonical(name), _NONE)
        if need > max(free, _NONE):
            yield (
                f"needs {format_amount(need)} {name.removeprefix('requests.')}, {quota['metadata']['name']} has "
                f"{format_amount(max(free, _NONE))} of {format_amount(hard)} free"
            )


def applies(quota: Manifest, claim: Claim) -> bool:
    """Whether the quota counts the run's pods: they have requests, no deadline, and perhaps a PriorityClass."""
    spec = quota["spec"]
    scopes = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes", [])]
    return all(
        _matches(scope, claim) for scope in (*scopes, *spec.get("scopeSelector", {}).get("matchExpressions", []))
    )


def _matches(scope: dict[str, Any], claim: Claim) -> bool:
    match scope["scopeName"]:
        case "NotTerminating" | "NotBestEffort":
            return True
        case "PriorityClass":
            return _matches_name(scope, claim.priority_class)
    return False


def _matches_name(scope: dict[str, Any], name: str | None) -> bool:
    match scope["operator"]:
        case "In":
            return name in scope.get("values", [])
        case "NotIn":
            return name not in scope.get("values", [])
        case "DoesNotExist":
            return name is None
    return name is not None


# ------------------------------------------------------------------------------------------------------------- amounts


def amounts_of_pod(pod_spec: dict[str, Any]) -> Amounts:
    """What one pod takes of a quota, by the names that quotas use."""
    amounts: Amounts = {"pods": Decimal(1)}
    for container in pod_spec["containers"]:
        for kind in ("requests", "limits"):
            for name, text in container.get("resources", {}).get(kind, {}).items():
                key = f"{kind}.{name}"
                amounts[key] = amounts.get(key, _NONE) + parse_quantity(text)
    return amounts


def amounts_of_job() -> Amounts:
    """What an attempt takes besides its pods."""
    return {"count/jobs.batch": Decimal(1)}


def _canonical(name: str) -> str:
    """One name for what quotas may call by two."""
    if name in ("cpu", "memory", "ephemeral-storage"):
        return f"requests.{name}"
    return "pods" if name == "count/pods" else name


def parse_quantity(text: str | int) -> Decimal:
    """A number of Kubernetes': 500m, 4Gi, 1e3.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?", str(text))
    if found is None:
        raise ValueError(f"not a quantity: {text}")
    return Decimal(found[1]) * _SUFFIXES[found[2] or ""]


def format_amount(amount: Decimal) -> str:
    """As people write it: 16, 1.5, 64Gi."""
    for suffix in ("Ti", "Gi", "Mi"):
        size = _SUFFIXES[suffix]
        if amount >= size and amount % (size / 4) == 0:
            return f"{(amount / size).normalize():f}{suffix}"
    return f"{amount.normalize():f}"
