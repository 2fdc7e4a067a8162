"""Detached processes of a local instance: started, recognised and stopped, and nobody else's ever signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runyard_local.process import Command, Identity, ProcessTable, read_last_lines

from tests.waiting import wait_until

SLEEPER = Command("sleeper", ("sleep", "300"))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    yield table
    for name in table.names():
        table.stop(name, grace_s=0)


def test_a_started_process_is_found_by_another_table_and_gone_after_stop(table: ProcessTable, tmp_path: Path) -> None:
    started = table.start(SLEEPER)
    assert ProcessTable(tmp_path / "run", tmp_path / "logs").find("sleeper") == started
    table.stop("sleeper", grace_s=5)
    assert not started.is_running()
    assert table.names() == []


def test_a_process_with_another_command_line_or_environment_is_out_of_date(table: ProcessTable) -> None:
    table.start(SLEEPER)
    assert table.is_current(SLEEPER)
    assert not table.is_current(Command("sleeper", ("sleep", "301")))
    assert not table.is_current(Command("sleeper", SLEEPER.argv, {"KEY": "new"}))


def test_a_pid_that_has_gone_to_another_process_is_left_alone(table: ProcessTable, tmp_path: Path) -> None:
    stranger = table.start(Command("stranger", SLEEPER.argv))
    record = {"pid": stranger.pid, "boot": stranger.boot, "startTicks": stranger.start_ticks - 1, "digest": ""}
    (tmp_path / "run" / "ours.json").write_text(json.dumps(record))
    assert table.find("ours") is None
    table.stop("ours", grace_s=0)
    assert stranger.is_running()


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["true"])
    wait_until(lambda: Identity.read(child.pid) is None, 5)
    assert child.wait() == 0


def test_stop_kills_what_ignores_sigterm_and_its_children(table: ProcessTable) -> None:
    script = "import signal, subprocess; signal.signal(15, signal.SIG_IGN); subprocess.run(['sleep', '300'])"
    stubborn = table.start(Command("stubborn", (sys.executable, "-c", script)))
    wait_until(lambda: any(child.pid != stubborn.pid for child in stubborn.descendants()), 10)
    family = [stubborn, *stubborn.descendants()]
    table.stop("stubborn", grace_s=0.2)
    assert [member for member in family if member.is_running()] == []


def test_output_goes_to_the_log_and_the_environment_holds_no_more_than_it_should(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "secret")
    table.start(Command("printer", ("env",), {"KEY": "value"}))
    wait_until(lambda: table.find("printer") is None, 5)
    lines = read_last_lines(table.log_path("printer"), 100)
    assert "KEY=value" in lines
    assert not any(line.startswith("SOMEBODYS_TOKEN") for line in lines)


def test_a_broken_record_counts_as_not_running(table: ProcessTable, tmp_path: Path) -> None:
    started = table.start(SLEEPER)
    (tmp_path / "run" / "sleeper.json").write_text("{")
    assert table.find("sleeper") is None
    os.kill(started.pid, signal.SIGKILL)
