"""Measure the operator: on a real control plane without nodes, whose Job controller is stopped, so that no pod is made.

    python benchmarks/operator_load.py [--runs 1000] [--restart 100 1000 5000] [--one-by-one 50]

    one by one     seconds from creating a run to its first Job
    all at once    seconds from creating `--runs` runs, 16 requests at a time, to the first Jobs of all
    restart        with N runs whose preparation goes on: seconds from the operator's start until it has seen all
    one look       with the same N runs: CPU of the operator for each of a hundred runs that get a label in turn

`--plot` draws the CPU for one look over N. CPU seconds are the processes' own; writes are the operator's requests by
its own metrics, without those for its Lease. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from instances import open_instance
from matplotlib.figure import Figure
from operator_process import (
    DEADLINE_S,
    RUNS,
    OperatorProcess,
    build_run,
    count_looks,
    count_writes,
    install_crds,
    read_metrics,
    wait_for_seen,
)
from runyard.cluster.client import MERGE_PATCH, Kube, connect
from runyard_local.instance import Instance

AT_ONCE = 16
LOOKS = 100
JOBS = "/apis/batch/v1/namespaces/default/jobs"


class JobWatch:
    """The time at which each Job was first seen."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def follow(self, kube: Kube) -> None:
        """Watch Jobs until cancelled."""
        url = f"{kube.server}{JOBS}?watch=true&resourceVersion=0"
        timeout = aiohttp.ClientTimeout(total=None)
        async with await kube.open_session() as session, session.get(url, timeout=timeout) as stream:
            async for line in stream.content.iter_chunked(2**20):
                event = json.loads(line)
                self.seen.setdefault(event["object"]["metadata"]["name"], time.monotonic())
                self._changed.set()

    async def wait_for(self, names: Iterable[str]) -> None:
        """Wait until all these Jobs were seen."""
        missing = set(names)
        async with asyncio.timeout(DEADLINE_S):
            while missing := missing - self.seen.keys():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Bench:
    """A control plane with an operator, and the rows measured so far."""

    kube: Kube
    operator: OperatorProcess
    apiserver: psutil.Process
    jobs: JobWatch
    rows: list[tuple[str, str]]
    look_ms: dict[int, float] = field(default_factory=dict)
    """CPU of the operator for one look, by number of runs."""

    async def create(self, name: str) -> float:
        """Create a run; return when that began."""
        began = time.monotonic()
        await self.kube.request("POST", RUNS, body=build_run(name))
        return began

    async def create_all(self, names: list[str]) -> None:
        """Create runs, 16 requests at a time."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def create(name: str) -> None:
            async with turn:
                await self.create(name)

        await asyncio.gather(*map(create, names))

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU seconds of operator and API server so far."""
        times = self.apiserver.cpu_times()
        return self.operator.usage[0], times.user + times.system

    async def run_one_by_one(self, count: int) -> None:
        """Measure how long a single run waits for its first Job."""
        waits = []
        for number in range(count):
            name = f"single-{number}"
            began = await self.create(name)
            await self.jobs.wait_for([f"{name}-prepare"])
            waits.append((self.jobs.seen[f"{name}-prepare"] - began) * 1000)
        cuts = statistics.quantiles(waits, n=20)
        self.rows.append((f"{count} one by one: create to first Job", f"p50 {cuts[9]:.0f} ms, p95 {cuts[18]:.0f} ms"))

    async def run_all_at_once(self, count: int) -> None:
        """Measure a burst of runs."""
        before, writes = self.cpu_s(), count_writes(await read_metrics())
        names = [f"burst-{number}" for number in range(count)]
        began = time.monotonic()
        await self.create_all(names)
        created_s = time.monotonic() - began
        await self.jobs.wait_for(f"{name}-prepare" for name in names)
        there_s = time.monotonic() - began
        await wait_for_seen(count)
        after = self.cpu_s()
        operator_s, apiserver_s = (new - old for new, old in zip(after, before, strict=True))
        made = count_writes(await read_metrics()) - writes
        self.rows += [
            (f"{count} at once: all first Jobs there after", f"{there_s:.1f} s (created in {created_s:.1f} s)"),
            (
                f"{count} at once: CPU seconds of operator + API server",
                f"{operator_s:.1f} + {apiserver_s:.1f} = {operator_s + apiserver_s:.1f}",
            ),
            (f"{count} at once: API writes of the operator, each run", f"{made / count:.1f}"),
        ]

    async def restart(self, count: int) -> None:
        """Measure a start with `count` runs, and then the cost of one look at a run."""
        there = len((await self.kube.get(RUNS))["items"])
        await self.create_all([f"idle-{number}" for number in range(there, count)])
        await wait_for_seen(count)
        self.operator.stop()
        self.operator.start()
        await wait_for_seen(count)
        took_s = time.monotonic() - self.operator.started
        cpu_s, rss_mib = self.operator.usage
        self.rows.append(
            (f"restart with {count:,}: all seen after", f"{took_s:.1f} s, {cpu_s:.1f} CPU seconds, {rss_mib:.0f} MiB")
        )
        await self._look_at([f"idle-{number}" for number in range(LOOKS)], count)

    async def _look_at(self, names: list[str], count: int) -> None:
        before, looks = self.operator.usage[0], await count_looks()
        for name in names:
            body = {"metadata": {"labels": {"looked-at": str(count)}}}
            await self.kube.request("PATCH", f"{RUNS}/{name}", body=body, content_type=MERGE_PATCH)
        deadline = time.monotonic() + DEADLINE_S
        while await count_looks() < looks + len(names) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        cost_ms = (self.operator.usage[0] - before) / len(names) * 1000
        self.look_ms[count] = cost_ms
        self.rows.append((f"one look beside {count:,}", f"{cost_ms:.1f} ms of CPU"))


@asynccontextmanager
async def open_bench(instance: Instance) -> AsyncIterator[Bench]:
    """Install the CRDs, stop Job controller and scheduler, and start an operator; give them once it leads."""
    os.environ["KUBECONFIG"] = str(instance.kubeconfig)
    install_crds(instance)
    parts = {name: instance.processes.find(name) for name in instance.processes.names()}
    for name in ("controller-manager", "scheduler"):
        part = next(each for key, each in parts.items() if name in key and each is not None)
        psutil.Process(part.pid).suspend()
    apiserver = next(each for key, each in parts.items() if "apiserver" in key and each is not None)
    operator = OperatorProcess(instance.state / "operator.log")
    async with connect() as kube:
        jobs = JobWatch()
        watching = asyncio.create_task(jobs.follow(kube))
        operator.start()
        await wait_for_seen(0)
        try:
            yield Bench(kube, operator, psutil.Process(apiserver.pid), jobs, [])
        finally:
            watching.cancel()
            operator.stop()


async def measure_creation(instance: Instance, arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Measure how long runs wait for their first Job, alone and in a burst."""
    async with open_bench(instance) as bench:
        await bench.run_one_by_one(arguments.one_by_one)
        await bench.run_all_at_once(arguments.runs)
        return bench.rows


async def measure_restarts(instance: Instance, arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Measure restarts and looks with many runs."""
    async with open_bench(instance) as bench:
        for count in sorted(arguments.restart):
            await bench.restart(count)
        if arguments.plot is not None:
            draw(bench.look_ms, arguments.plot)
        return bench.rows


def draw(look_ms: dict[int, float], path: Path) -> None:
    """Draw the CPU for one look over the number of runs."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="runs there are", ylabel="ms of CPU", xscale="log")
    axes.set_title("What one look at a run costs the operator")
    axes.plot(list(look_ms), list(look_ms.values()), marker="o")
    axes.set_ylim(bottom=0)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--restart", type=int, nargs="*", default=[100, 1000, 5000], help="each 100 or more")
    parser.add_argument("--one-by-one", type=int, default=50)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    arguments = parser.parse_args()
    rows = []
    for measure in (measure_creation, measure_restarts):
        with open_instance("--nodes", "0", "--no-operator") as instance:
            rows += asyncio.run(measure(instance, arguments))
    print("| | |\n|---|---|")
    for what, figures in rows:
        print(f"| {what} | {figures} |")


if __name__ == "__main__":
    main()
