"""An instance of `runyard local` for tests: brought up in a new directory, spoken to as its administrator."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml
from runyard_local.instance import Instance
from runyard_local.servers.s3server import open_client

from tests.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Cluster:
    """An instance of `runyard local` and what tests do with it."""

    state: Path

    @property
    def instance(self) -> Instance:
        found = Instance.load(self.state)
        assert found is not None
        return found

    @property
    def kubeconfig(self) -> Path:
        return self.instance.kubeconfig

    def local(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `runyard local <arguments>` on this instance."""
        return run_local(*arguments, "--dir", str(self.state), check=check)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check` a failure fails the test with its stderr."""
        argv = [str(self.instance.kubectl), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done

    def get_json(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return found

    def apply(self, manifest: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))

    def s3(self) -> S3Client:
        return open_client(self.instance)

    def operator_processes(self) -> list[psutil.Process]:
        """Find the processes of this instance's operator pod."""
        return [process for process in psutil.process_iter() if self._is_operator(process)]

    def kill_operator(self) -> None:
        """SIGKILL the operator's processes, and wait until they are gone."""
        victims = self.operator_processes()
        assert victims, "no operator runs"
        for victim in victims:
            victim.kill()
        wait_until(lambda: not any(victim.is_running() for victim in victims), 10)

    def _is_operator(self, process: psutil.Process) -> bool:
        try:
            argv, environment = process.cmdline(), process.environ()
        except psutil.Error:
            return False
        api_port = str(self.instance.ports.apiserver)
        return argv[-3:] == ["-m", "runyard", "operator"] and environment.get("KUBERNETES_SERVICE_PORT") == api_port


def run_local(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "runyard", "local", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"runyard local {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done


@contextmanager
def bring_up(*flags: str) -> Iterator[Cluster]:
    """Bring up an instance in a new directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="runyard-test-") as parent:
        cluster = Cluster(Path(parent, "local"))
        try:
            cluster.local("up", *flags)
            yield cluster
        finally:
            cluster.local("down", "--delete")


def install_crds(cluster: Cluster) -> None:
    """Install the CRDs, and wait until they are served; `kubectl wait` fails where a CRD has no conditions yet."""
    crds = Path(__file__).parents[2] / "charts" / "runyard" / "crds"
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))
    wait_until(lambda: cluster.kubectl("get", "trainingruns,gpubudgets", check=False).returncode == 0, 30)
