"""The operator as a process beside a control plane, and the namespace that it works in."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runyard.api.trainingrun import API_VERSION
from runyard.main import LEASE_NAME

from tests.cluster.lab import SPEC
from tests.cluster.local_cluster import Cluster
from tests.ports import free_port
from tests.waiting import wait_until


@dataclass(frozen=True)
class Operator:
    """A running operator process."""

    process: subprocess.Popen[str]
    log: Path
    probe_port: int
    metrics_port: int

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.probe_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def metric(self, pattern: str) -> float:
        """Return the sum of the metrics whose name and labels match."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(pattern, line))

    def leads(self) -> bool:
        return self.metric("runyard_leader ") == 1

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@dataclass(frozen=True)
class Namespace:
    """A namespace for a test: its runs, and the lease that its operators hold."""

    control_plane: Cluster
    name: str
    folder: Path

    def environment(self, **changes: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "KUBERNETES_SERVICE_HOST"}
        return inherited | {
            "KUBECONFIG": str(self.control_plane.kubeconfig),
            "RUNYARD_TRAINER_IMAGE": "trainer:test",
            "RUNYARD_NAMESPACES": self.name,
            "RUNYARD_LOG_FORMAT": "json",
            "POD_NAMESPACE": self.name,
            **changes,
        }

    @contextmanager
    def operator(self, pod_name: str, prefix: Sequence[str] = (), **changes: str) -> Iterator[Operator]:
        """Run the process until the block ends; `prefix` goes before its command."""
        probe_port, metrics_port = free_port(), free_port()
        ports = {"RUNYARD_PROBE_PORT": str(probe_port), "RUNYARD_METRICS_PORT": str(metrics_port)}
        log = self.folder / f"{pod_name}.log"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "runyard", "operator"],
                env=self.environment(POD_NAME=pod_name, **ports, **changes),
                stderr=stream,
                text=True,
            )
        try:
            yield Operator(process, log, probe_port, metrics_port)
        finally:
            process.kill()
            process.wait()

    def apply_run(self, name: str) -> None:
        metadata = {"name": name, "namespace": self.name}
        self.control_plane.apply({"apiVersion": API_VERSION, "kind": "TrainingRun", "metadata": metadata, "spec": SPEC})

    def get(self, *arguments: str) -> dict[str, Any]:
        return self.control_plane.get_json(*arguments, "--namespace", self.name)

    def phase(self, run: str) -> str:
        return self.read("trainingrun", run, "{.status.phase}")

    def read(self, kind: str, name: str, path: str) -> str:
        """Read a part of an object, which whole may be more than can be parsed here."""
        return self.control_plane.kubectl("get", kind, name, "--namespace", self.name, "-o", f"jsonpath={path}").stdout

    def holder(self) -> str:
        return str(self.get("lease", LEASE_NAME)["spec"]["holderIdentity"])


def wait_for_leader(operator: Operator) -> None:
    wait_until(lambda: operator.process.poll() is not None or (operator.is_ready() and operator.leads()), 60)
    assert operator.process.poll() is None, operator.log.read_text()
