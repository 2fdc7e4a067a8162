"""An operator outside of the cluster, as benchmarks need it: started, and watched by its metrics; and runs for it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from runyard.api.trainingrun import API_VERSION
from runyard_local.instance import Instance

ROOT = Path(__file__).parents[1]
METRICS_PORT, PROBE_PORT = 18080, 18081
RUNS = f"/apis/{API_VERSION}/namespaces/default/trainingruns"
DEADLINE_S = 600.0


def install_crds(instance: Instance) -> None:
    """Apply the CRDs as $KUBECONFIG's user, and wait until the API server serves them."""
    crds = str(ROOT / "crds")
    subprocess.run([instance.kubectl, "apply", "--server-side", "-f", crds], check=True, stdout=subprocess.DEVNULL)
    get = [instance.kubectl, "get", "trainingruns,gpubudgets"]
    while subprocess.run(get, check=False, capture_output=True).returncode:
        time.sleep(0.1)


def build_run(name: str) -> dict[str, Any]:
    """Build a run with no more than it must have."""
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
    """`python -m runyard operator` with the administrator's rights."""

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
        """Stop it with SIGTERM, as Kubernetes does: it releases its Lease."""
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
    """Read the operator's metrics, by name and labels; none while it starts."""
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
    """Count the requests that were not reads."""
    pattern = re.compile(r'runyard_api_requests_total\{method="(POST|PATCH|PUT|DELETE)"')
    return round(sum(value for name, value in metrics.items() if pattern.match(name)))


async def count_looks() -> int:
    """Return how often the operator has looked at a run since its start."""
    metrics = await read_metrics()
    return round(sum(value for name, value in metrics.items() if name.startswith("runyard_reconciles_total")))


async def wait_for_seen(count: int) -> None:
    """Wait until the operator leads, has looked at `count` runs and has nothing to do."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        metrics = await read_metrics()
        seen = sum(value for name, value in metrics.items() if name.startswith("runyard_runs{"))
        if seen >= count and metrics.get("runyard_queue_depth") == 0 and metrics.get("runyard_leader") == 1:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"{count} runs were not looked at in {DEADLINE_S:.0f} s")
