"""`runyard quota`: who uses GPUs, what it has cost, who waits for what, and what is left of budgets."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runyard.api.gpubudget import GPUBudgetSpec, GPUBudgetStatus
from runyard.api.trainingrun import GpuSeconds
from runyard.decide.quota.gangs import read_quota
from runyard.decide.quota.quantities import format_quantity, name_for_people
from runyard.decide.status import may_hold_gpus
from runyard.decide.values import Manifest, Run

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Columns where the output is no terminal."""


class Output(StrEnum):
    """The format of the output."""

    TABLE = "table"
    JSON = "json"


@dataclass
class Waiting:
    """A run that waits for quota."""

    run: str
    position: int | None
    """Runs ahead of it; None where Kueue does not say it."""
    message: str


@dataclass
class Usage:
    """The use of quota by a namespace."""

    namespace: str
    runs: int = 0
    """TrainingRuns, finished ones included."""
    gpus: int = 0
    """GPUs of runs whose pods may be there."""
    gpu_seconds: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GpuSeconds.model_fields, 0))
    """allocated, productive, lost: of the runs that are there; deleted ones are in Prometheus."""
    quotas: list[str] = field(default_factory=list)
    """Use of GPUs by ResourceQuota: `8 of 16 nvidia.com/gpu (gpus)`."""
    waiting: list[Waiting] = field(default_factory=list)
    """In the order in which they will start."""


@dataclass
class Budget:
    """A GPUBudget; GPU-hours as text, as status has them."""

    name: str
    hours: float
    window_days: int
    action: str
    used: str
    remaining: str
    namespaces: dict[str, str]
    """GPU-hours of each that has taken any."""


def quota(
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: every namespace.")] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.TABLE,
) -> None:
    """Show who uses GPUs, what runs have cost, who waits for what, and what is left of budgets."""
    from runyard.cluster.quota_usage import read_quota_usage  # needs packages that the other commands do not

    runs, quotas, budgets = asyncio.run(read_quota_usage(namespace))
    found, counted = summarize(runs, quotas), [read_budget(manifest) for manifest in budgets]
    if output is Output.JSON:
        shown = {"namespaces": list(map(asdict, found)), "budgets": list(map(asdict, counted))}
        typer.echo(json.dumps(shown, indent=2))
    else:
        print_usage(found, counted)


def read_budget(manifest: Manifest) -> Budget:
    """Read a budget as stored."""
    spec = GPUBudgetSpec.model_validate(manifest["spec"])
    status = GPUBudgetStatus.model_validate(manifest.get("status", {}))
    return Budget(
        name=manifest["metadata"]["name"],
        hours=spec.gpu_hours,
        window_days=spec.window_days,
        action=spec.action,
        used=status.used or "?",
        remaining=status.remaining or "?",
        namespaces={each.name: each.used for each in status.namespaces},
    )


def summarize(runs: list[Run], quotas: list[Manifest]) -> list[Usage]:
    """Sum up by namespace, those that hold most GPUs first; namespaces without runs are left out."""
    found: dict[str, Usage] = {}
    for run in runs:
        usage, status = found.setdefault(run.namespace, Usage(run.namespace)), run.status
        usage.runs += 1
        usage.gpus += (status.gpus or 0) if may_hold_gpus(status) else 0
        spent = status.gpu_seconds or GpuSeconds()
        usage.gpu_seconds = {kind: seconds + getattr(spent, kind) for kind, seconds in usage.gpu_seconds.items()}
        if status.queue is not None:
            usage.waiting.append(Waiting(run.name, status.queue.position, status.queue.message))
    for namespace, descriptions in _describe_quotas(quotas).items():
        if namespace in found:
            found[namespace].quotas = descriptions
    for usage in found.values():
        usage.waiting.sort(key=lambda waiting: (waiting.position or 0, waiting.run))
    return sorted(found.values(), key=lambda usage: (-usage.gpus, -usage.gpu_seconds["allocated"], usage.namespace))


def _describe_quotas(quotas: list[Manifest]) -> dict[str, list[str]]:
    described = defaultdict(list)
    for manifest in quotas:
        read = read_quota(manifest)
        for resource, hard in sorted(read.hard.items()):
            if resource.startswith("requests.") and "/" in resource:  # an extended resource
                used = format_quantity(read.used.get(resource, hard * 0), resource)
                described[manifest["metadata"]["namespace"]].append(
                    f"{used} of {format_quantity(hard, resource)} {name_for_people(resource)} ({read.name})"
                )
    return described


def print_usage(found: list[Usage], budgets: list[Budget]) -> None:
    """Print the tables for a terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    if found:
        _print_namespaces(console, found)
    else:
        console.print("no TrainingRuns")
    if budgets:
        console.print()
        _print_budgets(console, budgets)


def _print_namespaces(console: Console, found: list[Usage]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("NAMESPACE", "RUNS", "GPUS", "GPU-HOURS", "PRODUCTIVE", "LOST"):
        table.add_column(name, justify="left" if name == "NAMESPACE" else "right")
    table.add_column("QUOTA USED", no_wrap=True)
    for usage in found:
        table.add_row(usage.namespace, str(usage.runs), str(usage.gpus), *_format_cost(usage), "; ".join(usage.quotas))
    console.print(table)
    for usage in found:
        for waiting in usage.waiting:
            console.print(f"{usage.namespace}/{waiting.run} waits: {waiting.message}", soft_wrap=True)


def _print_budgets(console: Console, budgets: list[Budget]) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("BUDGET", "USED", "HOURS", "LEFT", "DAYS", "ACTION"):
        table.add_column(name, justify="left" if name in ("BUDGET", "ACTION") else "right")
    table.add_column("BY", no_wrap=True)
    for budget in budgets:
        used_by = ", ".join(f"{name} {hours}" for name, hours in budget.namespaces.items())
        hours, days = f"{budget.hours:,.15g}", str(budget.window_days)
        table.add_row(budget.name, budget.used, hours, budget.remaining, days, budget.action, used_by)
    console.print(table)


def _format_cost(usage: Usage) -> list[str]:
    spent: dict[str, Any] = usage.gpu_seconds
    hours, allocated = f"{spent['allocated'] / 3600:,.2f}", spent["allocated"]
    shares = (f"{spent[kind] / allocated:.0%}" if allocated else "" for kind in ("productive", "lost"))
    return [hours, *shares]
