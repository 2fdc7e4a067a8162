"""The ledger of a GPUBudget: what namespaces have spent of it, and what follows from that.

    runs' totals as last seen ─> book ─> ledger: GPU-seconds by day and namespace, and how much of each run is in it
                                            └─ the days of the window ─> used, remaining ─> Exceeded, who is blocked

A run's total only grows, and the ledger holds how much of it was booked: booking an older total again adds nothing.
Both are in one object, so that a write that is lost or repeated neither loses nor doubles anything. GPU-seconds that
were booked stay when the run is deleted, and so does, for a while, how much of the run was booked: a replica that leads
again with an older view of the run still adds nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

from runyard_trainer.contract.times import format_time

from runyard.api.gpubudget import GPUBudgetSpec, GPUBudgetStatus, LabelSelector, LabelSelectorRequirement, NamespaceUse
from runyard.api.trainingrun import Condition
from runyard.decide.values import Event

EXCEEDED = "Exceeded"
"""The type of the condition that the budget is used up."""
_HOUR_S = 3600
_REMEMBERED = timedelta(days=2)
"""How long a run that is gone is kept at least: no replica's view is older than that."""


@dataclass(frozen=True)
class Spent:
    """The cost of a run so far."""

    namespace: str
    gpu_seconds: int


@dataclass(frozen=True)
class Ledger:
    """The counts of one budget."""

    namespaces: frozenset[str] = frozenset()
    """Those whose runs are counted."""
    days: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """GPU-seconds by day (ISO 8601) and namespace."""
    runs: Mapping[str, int] = field(default_factory=dict)
    """GPU-seconds of each run, by UID, that are in `days`, or that were spent before its namespace was counted."""
    closed: Mapping[str, str] = field(default_factory=dict)
    """The day (ISO 8601) since which a run is gone, by UID."""


def parse_ledger(text: str) -> Ledger:
    """Parse what `format_ledger` wrote."""
    found = json.loads(text)
    return Ledger(frozenset(found["namespaces"]), found["days"], found["runs"], found["closed"])


def format_ledger(ledger: Ledger) -> str:
    """Format as JSON, the same for the same ledger."""
    found = {"namespaces": sorted(ledger.namespaces), "days": ledger.days, "runs": ledger.runs, "closed": ledger.closed}
    return json.dumps(found, sort_keys=True, separators=(",", ":"))


def select_namespaces(ledger: Ledger, selected: frozenset[str], there: Mapping[str, Spent]) -> Ledger:
    """Count the runs of these namespaces from now on.

    Args:
        ledger: so far.
        selected: whose runs count.
        there: by UID, the runs of namespaces that were not counted so far: what they have spent is past.
    """
    newly = selected - ledger.namespaces
    past = {uid: spent.gpu_seconds for uid, spent in there.items() if spent.namespace in newly and spent.gpu_seconds}
    return replace(ledger, namespaces=selected, runs={**ledger.runs, **past})


def book(ledger: Ledger, seen: Mapping[str, Spent], today: date) -> Ledger:
    """Add what runs have spent since they were booked last, as of today."""
    days = {day: dict(of_day) for day, of_day in ledger.days.items()}
    runs = dict(ledger.runs)
    for uid, spent in seen.items():
        new = spent.gpu_seconds - runs.get(uid, 0)
        if spent.namespace in ledger.namespaces and new > 0:
            of_day = days.setdefault(today.isoformat(), {})
            of_day[spent.namespace] = of_day.get(spent.namespace, 0) + new
            runs[uid] = spent.gpu_seconds
    return replace(ledger, days=days, runs=runs)


def close(ledger: Ledger, gone: Iterable[str], spec: GPUBudgetSpec, today: date) -> Ledger:
    """Note that these runs are gone as of today, and drop the days that have left the window."""
    first = first_day(spec, today)
    closed = {uid: today.isoformat() for uid in gone if uid in ledger.runs} | dict(ledger.closed)
    remembered = min(first, today - _REMEMBERED).isoformat()
    forgotten = {uid for uid, day in closed.items() if day < remembered}
    return replace(
        ledger,
        days={day: of_day for day, of_day in ledger.days.items() if day >= first.isoformat()},
        runs={uid: seconds for uid, seconds in ledger.runs.items() if uid not in forgotten},
        closed={uid: day for uid, day in closed.items() if uid not in forgotten},
    )


def first_day(spec: GPUBudgetSpec, today: date) -> date:
    """Return the first day of the window."""
    return today - timedelta(days=spec.window_days - 1)


def sum_up(ledger: Ledger, spec: GPUBudgetSpec, today: date) -> dict[str, int]:
    """Return the GPU-seconds in the window by namespace, of those that are selected."""
    used: defaultdict[str, int] = defaultdict(int)
    for day, of_day in ledger.days.items():
        if day >= first_day(spec, today).isoformat():
            for namespace, seconds in of_day.items():
                if namespace in ledger.namespaces:
                    used[namespace] += seconds
    return dict(used)


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Return whether a namespace with these labels is selected."""
    are_equal = all(labels.get(key) == value for key, value in selector.match_labels.items())
    return are_equal and all(_meets(each, labels) for each in selector.match_expressions)


def _meets(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in requirement.values
        case "NotIn":
            return labels.get(requirement.key) not in requirement.values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels


# -------------------------------------------------------------------------------------------------------------- showing


def is_used_up(spec: GPUBudgetSpec, used: Mapping[str, int]) -> bool:
    """Return whether nothing is left."""
    return sum(used.values()) >= spec.gpu_hours * _HOUR_S


def build_status(
    spec: GPUBudgetSpec, used: Mapping[str, int], old: GPUBudgetStatus, generation: int, now: datetime
) -> GPUBudgetStatus:
    """Build the whole status of a budget."""
    total_s = sum(used.values())
    message, is_exceeded = describe(spec, used), is_used_up(spec, used)
    if is_exceeded:
        message += "; no further run starts" if spec.action == "Block" else "; runs go on starting, as action is Warn"
    conditions = {
        EXCEEDED: (is_exceeded, "UsedUp" if is_exceeded else "WithinBudget", message),
        "Ready": (True, "Counted", ""),
    }
    by_use = sorted(used.items(), key=lambda each: (-each[1], each[0]))
    return GPUBudgetStatus(
        observed_generation=generation,
        used=_format_hours(total_s),
        remaining=_format_hours(max(0, spec.gpu_hours * _HOUR_S - total_s)),
        namespaces=[NamespaceUse(name=name, used=_format_hours(seconds)) for name, seconds in by_use],
        conditions=[_build_condition(kind, *values, old, generation, now) for kind, values in conditions.items()],
    )


def build_event(old: GPUBudgetStatus, new: GPUBudgetStatus) -> tuple[Event, str] | None:
    """Build the Event for a change of `Exceeded`, with the time of the change; None where it has not changed."""
    was, now = (next((each for each in status.conditions if each.type == EXCEEDED), None) for status in (old, new))
    is_exceeded = now is not None and now.status == "True"
    if now is None or is_exceeded == (was is not None and was.status == "True"):
        return None
    return Event("Warning" if is_exceeded else "Normal", now.reason, now.message), now.last_transition_time


def describe(spec: GPUBudgetSpec, used: Mapping[str, int]) -> str:
    """Describe the use: `100.2 of 100 GPU-hours of the last 30 days are used`."""
    days = f"the last {spec.window_days} days" if spec.window_days > 1 else "today"
    return f"{_format_hours(sum(used.values()))} of {spec.gpu_hours:,.15g} GPU-hours of {days} are used"


def describe_block(name: str, spec: GPUBudgetSpec, used: Mapping[str, int], namespace: str) -> str:
    """Describe why a run of the namespace does not start, and what to do."""
    share = f" ({_format_hours(used.get(namespace, 0))} by {namespace})" if len(used) > 1 else ""
    return (
        f"GPUBudget {name}: {describe(spec, used)}{share}; it starts when older ones are out of the window, or when "
        "spec.gpuHours of the budget is raised"
    )


def _format_hours(seconds: float) -> str:
    return f"{seconds / _HOUR_S:,.2f}"


def _build_condition(
    kind: str, holds: bool, reason: str, message: str, old: GPUBudgetStatus, generation: int, now: datetime
) -> Condition:
    status: Any = "True" if holds else "False"
    before = next((each for each in old.conditions if each.type == kind and each.status == status), None)
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before else format_time(now),
        reason=reason,
        message=message,
    )
