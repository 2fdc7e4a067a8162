"""Amounts of resources, as Kubernetes writes them and as a ResourceQuota counts them for a pod.

All amounts of pods that a quota can name are counted: cpu, memory, requests.*, limits.*, hugepages-*, extended
resources, pods and count/pods. What is decided only when a pod is created is not: defaults of a LimitRange, the
overhead of a RuntimeClass, containers that a webhook puts in.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from runyard_trainer.contract.times import parse_time

from runyard.decide.facts import pods
from runyard.decide.values import Manifest

Usage = dict[str, Decimal]
"""Amounts by their name in a quota: `requests.cpu`."""

_DECIMAL = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")
_BINARY = ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_FACTORS = {
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(_DECIMAL, -3)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(_BINARY, 1)},
}
_NATIVE = ("cpu", "memory", "ephemeral-storage")


# -------------------------------------------------------------------------------------------------------------- amounts


def parse_quantity(text: str | int | float) -> Decimal:
    """Parse an amount as Kubernetes writes it: 500m, 1.5Gi, 2e3. Raises ValueError."""
    text = str(text)
    number = text.rstrip("numkMGTPEi")
    try:
        return Decimal(number) * _FACTORS[text[len(number) :]]
    except (ArithmeticError, KeyError):
        raise ValueError(f"{text!r} is no quantity") from None


def format_quantity(amount: Decimal, resource: str) -> str:
    """Format for people: memory in its largest binary unit (1.5Gi), the rest as a number."""
    if any(kind in resource for kind in ("memory", "storage", "hugepages")):
        for suffix in ("Ti", "Gi", "Mi", "Ki"):
            if abs(amount) >= _FACTORS[suffix]:
                return f"{round(amount / _FACTORS[suffix], 1).normalize():f}{suffix}"
    return f"{round(amount, 3).normalize():f}"


def name_for_people(resource: str) -> str:
    """Return the name for people: `nvidia.com/gpu` for `requests.nvidia.com/gpu`."""
    return resource.removeprefix("requests.")


def add(*usages: Usage) -> Usage:
    """Return the sum."""
    names = {name for usage in usages for name in usage}
    return {name: sum((usage.get(name, Decimal()) for usage in usages), Decimal()) for name in names}


def times(usage: Usage, number: int) -> Usage:
    """Return `number` times as much."""
    return {name: amount * number for name, amount in usage.items()}


def beyond(usage: Usage, taken: Usage) -> Usage:
    """Return the part of `usage` that is not in `taken`."""
    return {name: max(Decimal(), amount - taken.get(name, Decimal())) for name, amount in usage.items()}


# ----------------------------------------------------------------------------------------------------------------- pods


def count_pod(spec: dict[str, Any]) -> Usage:
    """Return what a pod with this spec is charged, by every name that a quota may have for it."""
    usage: Usage = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for kind in ("requests", "limits"):
        for name, amount in _sum_containers(spec, kind).items():
            usage[f"{kind}.{name}"] = amount
            if kind == "requests" and (name in _NATIVE or name.startswith("hugepages-")):
                usage[name] = amount
    return usage


def _sum_containers(spec: dict[str, Any], kind: str) -> Usage:
    """Sum containers and sidecars; where an init container takes more, its amount counts."""
    peaks: list[Usage] = []
    sidecars: Usage = {}
    for container in spec.get("initContainers") or ():
        peak = add(sidecars, read_amounts(container, kind))
        peaks.append(peak)
        if container.get("restartPolicy") == "Always":
            sidecars = peak
    peaks.append(add(sidecars, *(read_amounts(container, kind) for container in spec["containers"])))
    return {name: max(peak.get(name, Decimal()) for peak in peaks) for name in add(*peaks)}


def read_amounts(container: dict[str, Any], kind: str) -> Usage:
    """Read `requests` or `limits` of a container, by the name of the resource."""
    resources = container.get("resources") or {}
    amounts = resources.get(kind) or {}
    if kind == "requests":  # what has a limit and no request asks for its limit
        amounts = {**(resources.get("limits") or {}), **amounts}
    return {name: parse_quantity(amount) for name, amount in amounts.items()}


def is_charged(pod: Manifest, now: datetime) -> bool:
    """Return whether a quota still counts the pod: not once it has ended, or is overdue on a node that is gone."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    metadata = pod["metadata"]
    if not pods.is_deleting(pod):
        return True
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)
    return now <= parse_time(metadata["deletionTimestamp"]) + grace
