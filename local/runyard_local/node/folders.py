"""The folders of a node and its pods, by which an agent finds the processes of one that was killed before it.

nodes/<node>/pods/<uid>/
    etc/  volumes/<name>/
    containers/<name>/<restart>/   process.json  exit  log  termination-log  root/
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from runyard_local.process import Identity
from runyard_local.waiting import wait_until

_KILL_DEADLINE_S = 10.0


@dataclass(frozen=True)
class ContainerDir:
    """The folder of one run of a container."""

    path: Path

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def termination_log(self) -> Path:
        return self.path / "termination-log"

    @property
    def root(self) -> Path:
        """Path of an empty folder, the mount point of the container's root."""
        return self.path / "root"

    @property
    def exit(self) -> Path:
        return self.path / "exit"

    def make(self) -> None:
        """Make the folder, with empty files."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        self.termination_log.touch()

    def record(self, pid: int) -> None:
        """Write down the shim's process, before the shim gets its ContainerSpec."""
        identity = Identity.read(pid)
        if identity is not None:
            (self.path / "process.json").write_text(json.dumps(asdict(identity)))

    def find_process(self) -> Identity | None:
        """Find the shim's process; None if it was never started."""
        try:
            return Identity(**json.loads((self.path / "process.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def read_exit_code(self) -> int | None:
        """Read the container's exit code; None if its shim has not written one."""
        try:
            return int(self.exit.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def has_ended(self) -> bool:
        """Return whether the container has ended, so that its log is complete."""
        if self.exit.exists() or not self.path.exists():
            return True
        process = self.find_process()
        return process is not None and not process.is_running()


@dataclass(frozen=True)
class PodDir:
    """The folder of a pod."""

    path: Path

    @property
    def etc(self) -> Path:
        return self.path / "etc"

    def volume(self, name: str) -> Path:
        return self.path / "volumes" / name

    def container(self, name: str, restart: int) -> ContainerDir:
        return ContainerDir(self.path / "containers" / name / str(restart))

    def last_start(self, name: str) -> int | None:
        """Return the number of the container's last run that had a process; None if none had."""
        runs = (self.path / "containers" / name).glob("*/process.json")
        return max((int(path.parent.name) for path in runs), default=None)

    def remove(self) -> None:
        """Remove the folder, except for mounts that a container's end has not yet undone."""
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class NodeDir:
    """The folder of a node."""

    path: Path

    def pod(self, uid: str) -> PodDir:
        return PodDir(self.path / "pods" / uid)

    def pods(self) -> Iterator[tuple[str, PodDir]]:
        """List every pod whose folder was not removed, by UID."""
        for path in sorted((self.path / "pods").glob("*")):
            yield path.name, PodDir(path)

    def kill_leftovers(self) -> None:
        """Kill all containers that an earlier agent has started, and wait until they are gone."""
        folders = [ContainerDir(path.parent) for path in (self.path / "pods").glob("*/containers/*/*/process.json")]
        alive = [process for folder in folders if (process := folder.find_process()) and process.is_running()]
        for process in alive:
            process.send(signal.SIGKILL)
        wait_until(lambda: not any(process.is_running() for process in alive), _KILL_DEADLINE_S)
