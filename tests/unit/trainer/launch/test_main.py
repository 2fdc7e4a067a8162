"""The launcher of a pod, with workers that are small scripts: exit codes, signals, output, the termination message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.reports import PodReport, Result
from runyard_trainer.launch.__main__ import build_report, count_oom_kills, find_culprit, fit_report, wait_until_resolved
from runyard_trainer.launch.workers import Worker

from tests.waiting import wait_until

LAUNCHER = (
    "import os, sys; from runyard_trainer.launch.__main__ import main; "
    "sys.exit(main(os.environ, sys.argv[1:], peers_grace_s=2))"
)
REAPER = "import ctypes; ctypes.CDLL(None).prctl(36, 1); "  # PR_SET_CHILD_SUBREAPER: orphans come to it, as to PID 1


@contextmanager
def launch(
    tmp_path: Path, script: str, env: Mapping[str, str] | None = None, *, is_reaper: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """The launcher, whose workers run a Python script with `rank` and `folder` (shared by all) defined."""
    prelude = f"import os, signal, sys, time; rank = int(os.environ['RANK']); folder = {str(tmp_path)!r}\n"
    ours = {"RUNYARD_PROCESSES_PER_NODE": "2", "MASTER_PORT": "29999", "RUNYARD_TERMINATION_LOG": f"{tmp_path}/message"}
    process = subprocess.Popen(
        [sys.executable, "-c", (REAPER if is_reaper else "") + LAUNCHER, sys.executable, "-S", "-c", prelude + script],
        env={**os.environ, **ours, **(env or {})},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(tmp_path: Path, script: str, **env: str) -> tuple[int, str, PodReport]:
    """Exit code, output and report of the launcher."""
    with launch(tmp_path, script, env) as process:
        output, _ = process.communicate(timeout=60)
        return process.returncode, output, read_report(tmp_path)


def read_report(tmp_path: Path) -> PodReport:
    return PodReport.model_validate_json((tmp_path / "message").read_text())


def wait_for_line(process: subprocess.Popen[str], start: str) -> str:
    """The next line that begins so."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line.rstrip()
    raise AssertionError(f"ended before {start!r}")


def wait_for_ready(process: subprocess.Popen[str]) -> None:
    """Until both ranks have said so."""
    assert {wait_for_line(process, "[rank ") for _ in range(2)} == {"[rank 0] ready", "[rank 1] ready"}


def test_all_workers_that_succeed_make_a_pod_that_completes(tmp_path: Path) -> None:
    code, output, report = run(tmp_path, "print('hello')")
    assert (code, report) == (0, PodReport(reason="Completed"))
    assert {"[rank 0] hello", "[rank 1] hello"} < set(output.splitlines())


def test_workers_learn_their_ranks(tmp_path: Path) -> None:
    names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT OMP_NUM_THREADS"
    script = f"print(*(os.environ[name] for name in {names.split()!r}))"
    env = {"RUNYARD_NODES": "3", "JOB_COMPLETION_INDEX": "2", "MASTER_ADDR": "localhost", "OMP_NUM_THREADS": "7"}
    _, output, _ = run(tmp_path, script, **env)
    assert {"[rank 4] 4 0 6 2 localhost 29999 7", "[rank 5] 5 1 6 2 localhost 29999 7"} < set(output.splitlines())


def test_each_rank_gets_its_share_of_the_cpus_where_no_threads_are_given(tmp_path: Path) -> None:
    env = {"OMP_NUM_THREADS": ""}
    _, output, _ = run(tmp_path, "print(os.environ['OMP_NUM_THREADS'])", **env)
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"[rank 0] {threads}" in output.splitlines()


WAIT_FOR_EVER = "signal.pause()"


@pytest.mark.parametrize("code", [1, 65, 70, 75])
def test_the_first_failing_workers_code_is_the_pods(tmp_path: Path, code: int) -> None:
    script = f"print('about to fail')\nif rank == 1: sys.exit({code})\nsys.exit(0)"
    got, _, report = run(tmp_path, script)
    assert (got, report.exit_code, report.rank, report.log_tail) == (code, code, 1, "about to fail")
    assert report.reason == ExitCode(code).reason


def test_a_worker_that_only_lost_its_peer_is_not_the_culprit(tmp_path: Path) -> None:
    script = f"""
if rank == 0:
    open(folder + '/lost', 'w').close()
    sys.exit(75)
while not os.path.exists(folder + '/lost'): time.sleep(0.01)
sys.exit({ExitCode.DATA_ERROR.value})
"""
    code, _, report = run(tmp_path, script)
    assert (code, report.rank, report.reason) == (65, 1, "DataError")


def test_a_worker_that_a_signal_ends_gives_128_plus_its_number(tmp_path: Path) -> None:
    code, _, report = run(tmp_path, "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\nsys.exit(0)")
    assert (code, report.rank, report.reason) == (137, 1, "Error")
    assert report.message == "rank 1 was ended by SIGKILL: it may have run out of memory"


@pytest.mark.parametrize("text", ["low 0\noom 3\noom_kill 2\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"])
def test_the_kernels_count_of_kills_for_memory_is_read_in_both_of_its_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "counter").write_text(text)
    assert count_oom_kills([tmp_path / "none", tmp_path / "counter"]) == 2


def test_a_rank_that_the_kernel_killed_for_memory_says_so(tmp_path: Path) -> None:
    ended = [Worker(rank=1, pid=1, output=None, exit_code=137), Worker(rank=0, pid=2, output=None, exit_code=75)]
    report = build_report(ended, tmp_path, was_stopped=False, is_out_of_memory=True)
    assert (report.reason, report.exit_code, report.rank) == ("OOMKilled", 137, 1)


def test_peers_of_a_failed_worker_that_do_not_notice_are_killed(tmp_path: Path) -> None:
    script = "signal.signal(signal.SIGTERM, lambda *_: print('told to stop'))\n"
    script += f"if rank == 0: sys.exit(3)\n{WAIT_FOR_EVER}"
    code, output, report = run(tmp_path, script)
    assert (code, report.rank) == (3, 0)
    assert "told to stop" not in output


def test_the_report_that_a_worker_leaves_is_the_pods(tmp_path: Path) -> None:
    left = PodReport(reason="DataError", message="data.train[0]: line 3 is no JSON", exit_code=65)
    script = f"""
if rank == 1:
    with open(os.environ['RUNYARD_REPORT_DIR'] + '/1.json', 'w') as file: file.write({left.to_json()!r})
    print('error: data.train[0]: line 3 is no JSON')
    sys.exit(65)
"""
    _, _, report = run(tmp_path, script)
    want = {"rank": 1, "log_tail": "error: data.train[0]: line 3 is no JSON"}
    assert report == left.model_copy(update=want)


def test_the_result_of_a_finished_run_is_what_rank_0_leaves(tmp_path: Path) -> None:
    left = PodReport(reason="Completed", result=Result(uri="s3://b/model", report="s3://b/r", digest="sha256:0"))
    script = f"if rank == 0: open(os.environ['RUNYARD_REPORT_DIR'] + '/0.json', 'w').write({left.to_json()!r})"
    assert run(tmp_path, script)[2] == left


NOTING_STOPS = """
def note(number, frame):
    with open(folder + f'/stops-{rank}', 'a') as file: file.write(signal.Signals(number).name)
signal.signal(signal.SIGTERM, note)
print('ready', flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_exactly_once_however_often_it_comes(tmp_path: Path, number: signal.Signals) -> None:
    script = NOTING_STOPS + "while not os.path.exists(folder + '/end'): time.sleep(0.01)\nsys.exit(75)"
    with launch(tmp_path, script) as process:
        wait_for_ready(process)
        process.send_signal(number)
        wait_until(lambda: (tmp_path / "stops-0").exists() and (tmp_path / "stops-1").exists(), deadline_s=30)
        process.send_signal(number)
        process.send_signal(number)
        (tmp_path / "end").touch()
        assert process.wait(30) == 75
    assert [(tmp_path / f"stops-{rank}").read_text() for rank in (0, 1)] == ["SIGTERM", "SIGTERM"]
    assert read_report(tmp_path).reason == "Interrupted"


def test_workers_that_do_not_stop_are_killed_before_the_pod_is_and_the_report_is_written(tmp_path: Path) -> None:
    script = NOTING_STOPS + f"while True: {WAIT_FOR_EVER}"
    with launch(tmp_path, script, {"RUNYARD_GRACE_SECONDS": "2"}) as process:
        wait_for_ready(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert "the grace period was over" in read_report(tmp_path).message


def test_a_stop_before_workers_listen_is_an_interruption(tmp_path: Path) -> None:
    with launch(tmp_path, f"print('ready', flush=True)\n{WAIT_FOR_EVER}") as process:
        wait_for_ready(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert "training had not begun" in read_report(tmp_path).message


def test_a_run_that_finishes_although_it_was_told_to_stop_is_finished(tmp_path: Path) -> None:
    script = NOTING_STOPS + "while not os.path.exists(folder + f'/stops-{rank}'): time.sleep(0.01)"
    with launch(tmp_path, script) as process:
        wait_for_ready(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


ORPHANING = """
if rank == 0:
    if os.fork() == 0:
        child = os.fork()
        if child == 0:
            os.close(1), os.close(2)
            os._exit(0)
        print('orphan', child, flush=True)
        os._exit(0)
    os.wait()
while not os.path.exists(folder + '/end'): time.sleep(0.01)
"""


def test_orphans_are_reaped(tmp_path: Path) -> None:
    with launch(tmp_path, ORPHANING, is_reaper=True) as process:
        orphan = int(wait_for_line(process, "[rank 0] orphan ").split()[-1])
        wait_until(lambda: not Path(f"/proc/{orphan}").exists(), deadline_s=30)
        (tmp_path / "end").touch()
        assert process.wait(30) == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_long_and_broken_output_is_forwarded_whole_to_a_slow_reader(tmp_path: Path, unbuffered: str) -> None:
    """Its length is what the pipes hold: the worker ends, and SIGCHLD comes, while the launcher waits to be read."""
    script = (
        "open(folder + '/pid.new', 'w').write(str(os.getpid())); os.rename(folder + '/pid.new', folder + '/pid');"
        r"sys.stdout.buffer.write(b'a' * 150_000 + b'\n\xff\xfe\nlast without an end')"
    )
    env = {"RUNYARD_PROCESSES_PER_NODE": "1", "PYTHONUNBUFFERED": unbuffered}
    with launch(tmp_path, script, env) as process:
        wait_until((tmp_path / "pid").exists, deadline_s=30)
        wait_until(lambda: has_ended(int((tmp_path / "pid").read_text())), deadline_s=30)
        output, _ = process.communicate(timeout=60)
    lines = [line.removeprefix("[rank 0] ") for line in output.splitlines() if line.startswith("[rank 0] ")]
    assert "".join(lines) == "a" * 150_000 + "\ufffd\ufffd" + "last without an end"


def has_ended(pid: int) -> bool:
    """Whether it is gone or waits for its parent to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_tail_is_the_last_lines_of_the_rank_that_failed(tmp_path: Path) -> None:
    script = "for i in range(200): print('rank', rank, 'line', i)\nsys.exit(rank)"
    _, _, report = run(tmp_path, script)
    lines = report.log_tail.splitlines()
    assert lines[-1] == "rank 1 line 199"
    assert 20 < len(lines) <= 30


BAD_ENVIRONMENTS: dict[str, Mapping[str, str]] = {
    "environment variable RUNYARD_NODES is 'two': expected a whole number": {"RUNYARD_NODES": "two"},
    "environment variable MASTER_PORT is not set: expected a whole number": {"MASTER_PORT": ""},
}


@pytest.mark.parametrize("message", BAD_ENVIRONMENTS)
def test_a_bad_environment_is_a_spec_error_in_one_line(tmp_path: Path, message: str) -> None:
    code, output, report = run(tmp_path, "", **BAD_ENVIRONMENTS[message])
    assert (code, report.reason, report.message) == (64, "SpecError", message)
    assert output.splitlines() == [f"[launch] exit code 64: SpecError. {message}"]


def test_a_master_whose_name_does_not_resolve_is_waited_for_until_told_to_stop(tmp_path: Path) -> None:
    env = {"RUNYARD_NODES": "2", "MASTER_ADDR": "nowhere.invalid"}
    with launch(tmp_path, "print('started')", env) as process:
        wait_for_line(process, "[launch] waiting for nowhere.invalid to resolve")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert read_report(tmp_path).message == "SIGTERM came while waiting for nowhere.invalid"


def test_a_master_whose_name_never_resolves_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.invalid, did not resolve within 0 s") as error:
        wait_until_resolved("nowhere.invalid", 0.0, lambda _: None)
    assert error.value.code is ExitCode.FAILED


def test_a_stop_ends_the_wait_for_the_master() -> None:
    with pytest.raises(Interrupted):
        wait_until_resolved("nowhere.invalid", 60.0, lambda _: signal.SIGTERM)


REPORTS = {
    "a long tail of wide characters": PodReport(reason="Error", log_tail="é\n" * 1200),
    "a tail of characters that JSON escapes": PodReport(reason="Error", log_tail="\x00" * 1200),
    "a long message": PodReport(reason="SpecError", message="m" * 10_000, log_tail="t" * 1200),
    "many resolved values": PodReport(reason="Completed", resolved={str(i): "v" * 100 for i in range(100)}),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_fits_the_termination_message_and_stays_json(name: str) -> None:
    text = fit_report(REPORTS[name])
    assert len(text.encode()) <= 4096
    assert PodReport.model_validate(json.loads(text)).reason == REPORTS[name].reason


def test_a_report_that_fits_is_left_as_it_is() -> None:
    report = PodReport(reason="Error", message="m", log_tail="tail", rank=3, exit_code=1)
    assert PodReport.model_validate_json(fit_report(report)) == report


def test_what_the_launcher_killed_is_nobodys_failure() -> None:
    killed = Worker(rank=0, pid=1, output=0, exit_code=137, was_killed=True)
    failed = Worker(rank=1, pid=2, output=0, exit_code=1)
    assert find_culprit([killed, failed]) is failed
    assert find_culprit([killed]) is None


def test_the_launcher_starts_without_torch() -> None:
    script = "import sys, runyard_trainer.launch.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
