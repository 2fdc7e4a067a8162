"""Detached processes, which outlive the command that started them and are found again by later commands.

The record of a process, `run/<name>.json`, holds its pid with the machine's boot and the process's start time: so a
pid that the kernel has given to another process since is never signalled.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from runyard_local.files import replace_file
from runyard_local.waiting import wait_until

_KILL_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Command:
    """A command line. `env` is added to a minimal environment; secrets go there: anyone can read argument lists."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A hash of all of it: where it differs, the running process is out of date."""
        return hashlib.sha256(json.dumps([self.argv, sorted(self.env.items())]).encode()).hexdigest()


@dataclass(frozen=True)
class Identity:
    """A process, unlike a pid unique among all that ever ran on this machine."""

    pid: int
    boot: str
    start_ticks: int

    @classmethod
    def read(cls, pid: int) -> Identity | None:
        """Find the process that has this pid now; None if there is none, or only a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(pid, boot, int(fields[19]))

    def is_running(self) -> bool:
        """Return whether the pid still belongs to this process."""
        return Identity.read(self.pid) == self

    def send(self, signum: int) -> None:
        """Send a signal, if the process is still there."""
        if self.is_running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def descendants(self) -> list[Identity]:
        """List its children, their children and so on; orphans are not among them."""
        try:
            children = psutil.Process(self.pid).children(recursive=True) if self.is_running() else []
        except psutil.NoSuchProcess:
            return []
        return [identity for child in children if (identity := Identity.read(child.pid))]


class ProcessTable:
    """The processes of one instance: their records in `run/`, their output in `logs/`."""

    def __init__(self, run_dir: Path, log_dir: Path) -> None:
        self._run_dir = run_dir
        self._log_dir = log_dir

    def names(self) -> list[str]:
        """List every process that was started and not stopped, alive or not."""
        return sorted(path.stem for path in self._run_dir.glob("*.json"))

    def find(self, name: str) -> Identity | None:
        """Find the process of that name; None if it does not run."""
        record = self._read(name)
        return record[0] if record and record[0].is_running() else None

    def is_current(self, command: Command) -> bool:
        """Return whether it runs and was started with exactly this command."""
        record = self._read(command.name)
        return record is not None and record[1] == command.digest and record[0].is_running()

    def log_path(self, name: str) -> Path:
        """Return the file with its stdout and stderr."""
        return self._log_dir / f"{name}.log"

    def start(self, command: Command) -> Identity:
        """Start it detached from this process and its terminal."""
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir.mkdir(parents=True, exist_ok=True)
        with self.log_path(command.name).open("ab") as log:
            process = subprocess.Popen(
                command.argv,
                env={**_base_environment(), **command.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._run_dir,
                start_new_session=True,
            )
        identity = Identity.read(process.pid) or Identity(process.pid, "", 0)
        record = {"pid": identity.pid, "boot": identity.boot, "startTicks": identity.start_ticks}
        text = json.dumps({**record, "digest": command.digest})
        replace_file(self._record_path(command.name), text.encode())
        return identity

    def stop(self, *names: str, grace_s: float) -> None:
        """Send them SIGTERM, after `grace_s` SIGKILL to those left and to their children; delete the records."""
        running = [identity for name in names if (identity := self.find(name))]
        family = [*running, *(child for identity in running for child in identity.descendants())]
        for identity in running:
            identity.send(signal.SIGTERM)
        wait_until(lambda: not _any_runs(running), grace_s)
        for member in family:
            member.send(signal.SIGKILL)
        wait_until(lambda: not _any_runs(family), _KILL_DEADLINE_S)
        for name in names:
            self._record_path(name).unlink(missing_ok=True)

    def _record_path(self, name: str) -> Path:
        return self._run_dir / f"{name}.json"

    def _read(self, name: str) -> tuple[Identity, str] | None:
        try:
            record = json.loads(self._record_path(name).read_text())
            return Identity(record["pid"], record["boot"], record["startTicks"]), record["digest"]
        except (FileNotFoundError, ValueError, KeyError):
            return None


def _any_runs(identities: Iterable[Identity]) -> bool:
    return any(identity.is_running() for identity in identities)


def read_last_lines(path: Path, count: int) -> Sequence[str]:
    """Read the last lines of a log file; none if there is no file."""
    try:
        return path.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []


def _base_environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "RUNYARD_CACHE", "RUNYARD_BIN", "XDG_CACHE_HOME")
    return {name: os.environ[name] for name in kept if name in os.environ}
