"""What lies on disk of a node's pods, by which an agent that was killed finds again what it had started.

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
        """An empty folder, on which the container's root is mounted."""
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
        """Remember the shim. Called before it is told what to run."""
        identity = Identity.read(pid)
        if identity is not None:
            (self.path / "process.json").write_text(json.dumps(asdict(identity)))

    def find_process(self) -> Identity | None:
        """The shim, if it was ever started."""
        try:
            return Identity(**json.loads((self.path / "process.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def read_exit_code(self) -> int | None:
        """How it ended; None if its shim could not say."""
        try:
            return int(self.exit.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def has_ended(self) -> bool:
        """Whether nothing will be added to its log."""
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
        """The number of the container's last run that had a process; None if it never had one."""
        runs = (self.path / "containers" / name).glob("*/process.json")
        return max((int(path.parent.name) for path in runs), default=None)

    def remove(self) -> None:
        """Nothing of the pod stays. A mount that a container's end has not yet undone is no part of it."""
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class NodeDir:
    """The folder of a node."""

    path: Path

    def pod(self, uid: str) -> PodDir:
        return PodDir(self.path / "pods" / uid)

    def pods(self) -> Iterator[tuple[str, PodDir]]:
        """Every pod that was here and not removed, by UID."""
        for path in sorted((self.path / "pods").glob("*")):
            yield path.name, PodDir(path)

    def kill_leftovers(self) -> None:
        """End all containers that an agent before us has started, and wait until they are gone."""
        folders = [ContainerDir(path.parent) for path in (self.path / "pods").glob("*/containers/*/*/process.json")]
        alive = [process for folder in folders if (process := folder.find_process()) and process.is_running()]
        for process in alive:
            process.send(signal.SIGKILL)
        wait_until(lambda: not any(process.is_running() for process in alive), _KILL_DEADLINE_S)
