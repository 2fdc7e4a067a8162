"""PID 1 of a training pod: `python -m runyard_trainer.launch`.

Starts one worker for each rank of the node (rank = node index x processes + local rank), forwards their output, passes
SIGTERM on once, and exits with the code of the worker that failed first. The termination message says why, as a
`PodReport`. torchrun's agent is not used: it turns every exit code into 1, and sends survivors SIGTERM, which tells
ours to save. Imports no torch: the workers start at once.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from runyard_trainer.contract.exits import ExitCode, Interrupted, Reason, UserError, find_reason
from runyard_trainer.contract.reports import TERMINATION_LOG_PATH, PodReport
from runyard_trainer.launch.workers import Signals, Worker, Workers

WORKER_COMMAND = (sys.executable, "-m", "runyard_trainer", "train")
REPORT_LIMIT_BYTES = 4096
"""Size of a termination message: Kubernetes cuts a longer one, and cut JSON cannot be read."""

PEERS_GRACE_S = 10.0
"""How long the other workers may take to notice that one has failed."""

RESOLVE_TIMEOUT_S = 120.0
"""How long the name of rank 0's pod may take to appear in DNS."""

_RESOLVE_INTERVAL_S = 0.5
_ENDED_BY_SIGTERM = 128 + signal.SIGTERM
_ENDED_BY_SIGKILL = 128 + signal.SIGKILL

OOM_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
"""Files of cgroup v2 and v1 with a line `oom_kill <n>` for this container."""


@dataclass(frozen=True)
class PodRanks:
    """The ranks that run in this pod, from the environment (docs/architecture.md)."""

    node_index: int
    nodes: int
    processes_per_node: int
    master_addr: str
    grace_s: float

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> PodRanks:
        """Read the variables. Raises UserError where one is missing or is no number."""
        pod = cls(
            node_index=_read_int(env, "JOB_COMPLETION_INDEX", 0),
            nodes=_read_int(env, "RUNYARD_NODES", 1),
            processes_per_node=_read_int(env, "RUNYARD_PROCESSES_PER_NODE", 1),
            master_addr=env.get("MASTER_ADDR", "127.0.0.1"),
            grace_s=_read_int(env, "RUNYARD_GRACE_SECONDS", 120),
        )
        if pod.world_size > 1:
            _read_int(env, "MASTER_PORT", None)
        return pod

    @property
    def world_size(self) -> int:
        """Number of ranks in all pods."""
        return self.nodes * self.processes_per_node

    @property
    def ranks(self) -> range:
        """The ranks of this pod."""
        first = self.node_index * self.processes_per_node
        return range(first, first + self.processes_per_node)

    @property
    def stop_grace_s(self) -> float:
        """Seconds that workers have to save: fewer than the pod has, so that there is time to report how they ended."""
        return self.grace_s - min(5.0, self.grace_s / 4)

    def build_worker_environment(self, env: Mapping[str, str], rank: int, report_dir: Path) -> dict[str, str]:
        """Add what tells a worker which rank it is, and where it leaves its report."""
        threads = max(1, len(os.sched_getaffinity(0)) // self.processes_per_node)
        return {
            **env,
            "OMP_NUM_THREADS": env.get("OMP_NUM_THREADS") or str(threads),
            "PYTHONUNBUFFERED": "1",
            "MASTER_ADDR": self.master_addr,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank - self.ranks.start),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.processes_per_node),
            "RUNYARD_REPORT_DIR": str(report_dir),
        }


def main(
    env: Mapping[str, str], worker_command: Sequence[str] = WORKER_COMMAND, peers_grace_s: float = PEERS_GRACE_S
) -> int:
    """Run the pod's workers to their end, write the termination message and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="runyard-report-") as report_dir, Signals() as signals:
        report = _run(env, worker_command, peers_grace_s, Path(report_dir), signals)
    text = fit_report(report)
    _log(f"exit code {report.exit_code}: {report.reason}. {report.message}".rstrip(" ."))
    _write_termination_message(text, env.get("RUNYARD_TERMINATION_LOG"))
    return report.exit_code


def _run(
    env: Mapping[str, str], command: Sequence[str], peers_grace_s: float, report_dir: Path, signals: Signals
) -> PodReport:
    try:
        pod = PodRanks.from_environment(env)
        if pod.nodes > 1:
            wait_until_resolved(pod.master_addr, RESOLVE_TIMEOUT_S, signals.wait_for_stop)
        oom_kills = count_oom_kills()
        with Workers(signals, peers_grace_s=peers_grace_s, stop_grace_s=pod.stop_grace_s) as workers:
            for rank in pod.ranks:
                workers.start(rank, command, pod.build_worker_environment(env, rank, report_dir))
            workers.wait()
            is_out_of_memory = count_oom_kills() > oom_kills
            return build_report(
                workers.ended, report_dir, was_stopped=workers.stop is not None, is_out_of_memory=is_out_of_memory
            )
    except UserError as error:
        return PodReport(reason=error.code.reason, message=str(error), exit_code=error.code)
    except Interrupted as error:
        return _report_interruption(str(error))


def wait_until_resolved(host: str, timeout_s: float, wait_for_stop: Callable[[float], signal.Signals | None]) -> None:
    """Wait until DNS knows rank 0's pod: names of a headless Service appear some time after the pods.

    Raises:
        Interrupted: a stop signal came meanwhile.
        UserError: FAILED: the name did not appear in time.
    """
    deadline = time.monotonic() + timeout_s
    if not _is_resolved(host):
        _log(f"waiting for {host} to resolve")
    while not _is_resolved(host):
        if time.monotonic() > deadline:
            raise UserError(
                f"the name of rank 0's pod, {host}, did not resolve within {timeout_s:.0f} s: look at that pod "
                "and at the cluster's DNS",
                ExitCode.FAILED,
            )
        if stop := wait_for_stop(_RESOLVE_INTERVAL_S):
            raise Interrupted(f"{stop.name} came while waiting for {host}")


def _is_resolved(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:
        return False
    return True


def count_oom_kills(files: Sequence[Path] = OOM_COUNTERS) -> int:
    """Count the processes of this container that the kernel has killed for want of memory; 0 where no file says it.

    Kubernetes reports OOMKilled only where PID 1 was killed.
    """
    for path in files:
        try:
            fields = dict(line.split() for line in path.read_text().splitlines())
        except (OSError, ValueError):
            continue
        return int(fields.get("oom_kill", 0))
    return 0


def build_report(
    ended: Sequence[Worker], report_dir: Path, *, was_stopped: bool, is_out_of_memory: bool = False
) -> PodReport:
    """Build the pod's report from the ends of its workers.

    Args:
        ended: all workers, in the order in which they ended.
        report_dir: folder with the workers' own reports, `<rank>.json`.
        was_stopped: whether a stop request was passed on to them.
        is_out_of_memory: whether the kernel has killed a process of the pod for want of memory.
    """
    culprit = find_culprit(ended)
    if culprit is not None and not (was_stopped and culprit.exit_code == _ENDED_BY_SIGTERM):
        return _report_failure(culprit, report_dir, is_out_of_memory)
    if culprit is not None or any(worker.was_killed for worker in ended):
        message = "told to stop, and workers ended without a save: " + (
            "training had not begun" if culprit else "the grace period was over"
        )
        return _report_interruption(message)
    first = min(ended, key=lambda worker: worker.rank)
    return _read_report(report_dir, first.rank) or PodReport(reason=Reason.COMPLETED)


def find_culprit(ended: Sequence[Worker]) -> Worker | None:
    """Find the worker whose failure is the pod's: the first that failed of itself; else the first that lost a peer."""
    failed = [worker for worker in ended if worker.exit_code != 0 and not worker.was_killed]
    causes = [worker for worker in failed if worker.exit_code != ExitCode.INTERRUPTED]
    return next(iter(causes or failed), None)


def _report_failure(worker: Worker, report_dir: Path, is_out_of_memory: bool) -> PodReport:
    assert worker.exit_code is not None
    if is_out_of_memory and worker.exit_code == _ENDED_BY_SIGKILL:
        own = PodReport(reason=Reason.OOM_KILLED, message=f"rank {worker.rank} was killed as the pod ran out of memory")
    else:
        own = _read_report(report_dir, worker.rank) or PodReport(
            reason=find_reason(worker.exit_code) or Reason.ERROR, message=_describe_end(worker.rank, worker.exit_code)
        )
    tail = own.log_tail or "\n".join(worker.tail)
    # model_validate, not model_copy: it cuts the tail to the length that the field allows
    fields = {**own.model_dump(), "exit_code": worker.exit_code, "rank": worker.rank, "log_tail": tail}
    return PodReport.model_validate(fields)


def _report_interruption(message: str) -> PodReport:
    return PodReport(reason=ExitCode.INTERRUPTED.reason, message=message, exit_code=ExitCode.INTERRUPTED)


def _describe_end(rank: int, exit_code: int) -> str:
    if exit_code <= 128:
        return f"rank {rank} ended with exit code {exit_code}"
    number = exit_code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ": it may have run out of memory" if number == signal.SIGKILL else ""
    return f"rank {rank} was ended by {name}{hint}"


def _read_report(report_dir: Path, rank: int) -> PodReport | None:
    try:
        return PodReport.model_validate_json((report_dir / f"{rank}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def fit_report(report: PodReport, limit_bytes: int = REPORT_LIMIT_BYTES) -> str:
    """Render JSON of at most `limit_bytes`: cut the log's tail first, then the message, then drop optional fields."""
    return next(text for text in map(PodReport.to_json, _shrink(report)) if len(text.encode()) <= limit_bytes)


def _shrink(report: PodReport) -> Iterator[PodReport]:
    yield report
    while report.log_tail:
        report = report.model_copy(update={"log_tail": report.log_tail[len(report.log_tail) // 2 + 1 :]})
        yield report
    while len(report.message) > 100:
        report = report.model_copy(update={"message": report.message[: len(report.message) // 2] + "…"})
        yield report
    yield report.model_copy(update={"resolved": None})
    yield report.model_copy(update={"resolved": None, "data": None, "result": None})


def _write_termination_message(text: str, given: str | None) -> None:
    """Write to the path given, else to Kubernetes' default path if it exists; without Kubernetes the log is enough."""
    path = Path(given or TERMINATION_LOG_PATH)
    if given or path.exists():
        try:
            path.write_text(text)
        except OSError as error:
            _log(f"{path} cannot be written: {error.strerror}")


def _log(line: str) -> None:
    print(f"[launch] {line}", flush=True)  # noqa: T201 - the pod's log


def _read_int(env: Mapping[str, str], name: str, default: int | None) -> int:
    text = env.get(name) or (None if default is None else str(default))
    try:
        return int(text or "")
    except ValueError as error:
        found = "is not set" if text is None else f"is {text!r}"
        raise UserError(f"environment variable {name} {found}: expected a whole number") from error


if __name__ == "__main__":
    sys.exit(main(os.environ))
