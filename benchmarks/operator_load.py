"""Measure what the operator costs, on a real control plane without nodes or Job controller, so no pod is created.

    python benchmarks/operator_load.py [--runs 1000] [--restart 100 1000 5000] [--one-by-one 50]

    one by one     a run is created; until its first Job is there
    all at once    `--runs` runs, as fast as one client can (16 requests at a time); until all first Jobs are there
    restart        so many runs whose preparation goes on; the operator is stopped and started: until it has seen all
    one look       then, beside so many, a hundred runs get a label one by one: what each costs the operator

`--plot` draws what one look costs beside how many runs. CPU seconds are those of the processes; writes are requests
that the operator made, by its own metrics, its Lease's left out. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from instances import open_instance
from matplotlib.figure import Figure
from runyard.api.trainingrun import API_VERSION
from runyard.cluster.client import MERGE_PATCH, Kube, connect
from runyard_local.instance import Instance

ROOT = Path(__file__).parents[1]
AT_ONCE = 16
LOOKS = 100
METRICS_PORT, PROBE_PORT = 18080, 18081
RUNS = f"/apis/{API_VERSION}/namespaces/default/trainingruns"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
DEADLINE_S = 600.0


def build_run(name: str) -> dict[str, Any]:
    """Return a run with the fewest fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingRun",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "s3://models/base"},
            "data": {"train": [{"uri": "s3://corpora/text/"}]},
            "output": {"uri": f"s3://models/{name}"},
            "compute": {"nodes": 2, "gpusPerNode": 8},
        },
    }


class OperatorProcess:
    """`python -m runyard operator` as the administrator, outside of the cluster."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.started = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        settings = {
            "RUNYARD_TRAINER_IMAGE": "trainer:1",
            "RUNYARD_METRICS_PORT": str(METRICS_PORT),
            "RUNYARD_PROBE_PORT": str(PROBE_PORT),
            "RUNYARD_LOG_LEVEL": "WARNING",
        }
        self.started = time.monotonic()
        with self._log.open("ab") as log:
            argv = [sys.executable, "-m", "runyard", "operator"]
            self._process = subprocess.Popen(argv, env=os.environ | settings, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop it as Kubernetes does, so that it gives its Lease back."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    @property
    def usage(self) -> tuple[float, float]:
        """Return its CPU seconds so far, and its resident MiB."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        times = process.cpu_times()
        return times.user + times.system, process.memory_info().rss / 2**20


async def read_metrics() -> dict[str, float]:
    """Return its metrics by name and labels; none while it starts."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{METRICS_PORT}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
    except aiohttp.ClientError:
        return {}
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def count_writes(metrics: dict[str, float]) -> int:
    """Count the requests that were no reads."""
    pattern = re.compile(r'runyard_api_requests_total\{method="(POST|PATCH|PUT|DELETE)"')
    return round(sum(value for name, value in metrics.items() if pattern.match(name)))


async def count_looks() -> int:
    """Return how often the operator has looked at a run since its start."""
    metrics = await read_metrics()
    return round(sum(value for name, value in metrics.items() if name.startswith("runyard_reconciles_total")))


async def wait_for_seen(count: int) -> None:
    """Wait until the operator has looked at so many runs and has nothing to do."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        metrics = await read_metrics()
        seen = sum(value for name, value in metrics.items() if name.startswith("runyard_runs{"))
        if seen >= count and metrics.get("runyard_queue_depth") == 0 and metrics.get("runyard_leader") == 1:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{count} runs were not looked at in {DEADLINE_S:.0f} s")


class JobWatch:
    """The time at which each Job was seen first."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def follow(self, kube: Kube) -> None:
        """Watch until it is cancelled."""
        url = f"{kube.server}{JOBS}?watch=true&resourceVersion=0"
        timeout = aiohttp.ClientTimeout(total=None)
        async with await kube.open_session() as session, session.get(url, timeout=timeout) as stream:
            async for line in stream.content.iter_chunked(2**20):
                event = json.loads(line)
                self.seen.setdefault(event["object"]["metadata"]["name"], time.monotonic())
                self._changed.set()

    async def wait_for(self, names: Iterable[str]) -> None:
        """Wait until all of them were seen."""
        missing = set(names)
        async with asyncio.timeout(DEADLINE_S):
            while missing := missing - self.seen.keys():
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Bench:
    """A control plane, an operator on it, and the measurements."""

    kube: Kube
    operator: OperatorProcess
    apiserver: psutil.Process
    jobs: JobWatch
    rows: list[tuple[str, str]]
    look_ms: dict[int, float] = field(default_factory=dict)
    """CPU of the operator for one look, by how many runs there are."""

    async def create(self, name: str) -> float:
        """Create a run; return when."""
        began = time.monotonic()
        await self.kube.request("POST", RUNS, body=build_run(name))
        return began

    async def create_all(self, names: list[str]) -> None:
        """Create runs as fast as one client can."""
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
        """Measure how long one run waits."""
        waits = []
        for number in range(count):
            name = f"single-{number}"
            began = await self.create(name)
            await self.jobs.wait_for([f"{name}-prepare"])
            waits.append((self.jobs.seen[f"{name}-prepare"] - began) * 1000)
        cuts = statistics.quantiles(waits, n=20)
        self.rows.append((f"{count} one by one: create to first Job", f"p50 {cuts[9]:.0f} ms, p95 {cuts[18]:.0f} ms"))

    async def run_all_at_once(self, count: int) -> None:
        """Measure a burst."""
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
        """Measure a start with so many runs, and then what a look at one of them costs."""
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
    """Bring up a control plane with the CRD, its Job controller stopped, and an operator that leads."""
    os.environ["KUBECONFIG"] = str(instance.kubeconfig)
    crds = str(ROOT / "crds")
    subprocess.run([instance.kubectl, "apply", "--server-side", "-f", crds], check=True, stdout=subprocess.DEVNULL)
    is_served = [instance.kubectl, "get", "trainingruns,gpubudgets"]
    while subprocess.run(is_served, check=False, capture_output=True).returncode:
        time.sleep(0.1)
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
    """Measure how long a run waits for its first Job, alone and in a burst."""
    async with open_bench(instance) as bench:
        await bench.run_one_by_one(arguments.one_by_one)
        await bench.run_all_at_once(arguments.runs)
        return bench.rows


async def measure_restarts(instance: Instance, arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Measure what a restart and a look cost beside many runs."""
    async with open_bench(instance) as bench:
        for count in sorted(arguments.restart):
            await bench.restart(count)
        if arguments.plot is not None:
            draw(bench.look_ms, arguments.plot)
        return bench.rows


def draw(look_ms: dict[int, float], path: Path) -> None:
    """Draw what one look costs beside how many runs."""
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
