"""Operator processes that start at once: forked off a process that has imported everything already.

They are real processes, so that they can be killed, stopped and continued.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from runyard import main

from tests.chaos.proxy import Proxy
from tests.forks import fork_context

_context = fork_context(__name__)


@dataclass
class Operator:
    """One replica: its process, which may come and go, and the proxy through which it speaks."""

    name: str
    namespace: str
    proxy: Proxy
    folder: Path
    process: ForkServerProcess | None = None
    num_starts: int = 0
    metrics_port: int = 0
    """0: any, which nobody knows."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.namespace}-{self.name}.log"

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def start(self) -> None:
        """Start it, as its Deployment would."""
        self.num_starts += 1
        kubeconfig = self.proxy.write_kubeconfig(self.folder / f"{self.namespace}-{self.name}.kubeconfig")
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "RUNYARD_TRAINER_IMAGE": "trainer:test",
            "RUNYARD_NAMESPACES": self.namespace,
            "RUNYARD_PROBE_PORT": "0",
            "RUNYARD_METRICS_PORT": str(self.metrics_port),
            "POD_NAMESPACE": self.namespace,
            "POD_NAME": self.name,
        }
        self.process = _context.Process(target=_operate, args=(environment, str(self.log)), daemon=True)
        self.process.start()

    def send(self, number: signal.Signals) -> None:
        """Signal it; one that has ended is left alone."""
        if self.process is not None and self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def end(self) -> None:
        """Kill it for good, and wait until it is gone."""
        if self.process is not None:
            self.kill()
            self.process.join(30)


def _operate(environment: Mapping[str, str], log: str) -> None:
    """Run the operator in the forked process."""
    os.environ.pop("KUBERNETES_SERVICE_HOST", None)
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    main.run()
