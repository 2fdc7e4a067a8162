"""Where programs are found, and what a failed build tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_local.programs.binaries import MODULES, Module, find_or_build_module
from runyard_local.programs.gobuild import explain_failure
from runyard_trainer.contract.exits import UserError

ETCD = next(module for module in MODULES if module.name == "etcd")


@pytest.fixture(autouse=True)
def nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNYARD_BIN", raising=False)
    monkeypatch.setenv("RUNYARD_CACHE", str(tmp_path / "cache"))


def write_program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def put_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_program_in_the_folder_that_the_user_names_is_used_whatever_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = write_program(tmp_path / "mine" / "etcd", "etcd Version: 0.1")
    monkeypatch.setenv("RUNYARD_BIN", str(tmp_path / "mine"))
    assert find_or_build_module(ETCD) == {"etcd": mine}


def test_a_built_program_is_found_in_the_cache(tmp_path: Path) -> None:
    cached = write_program(tmp_path / "cache" / "bin" / f"etcd-{ETCD.version}" / "etcd", "")
    assert find_or_build_module(ETCD) == {"etcd": cached}


@pytest.mark.parametrize("says", [f"etcd Version: {ETCD.version}", f"v{ETCD.version}", f'Version:"v{ETCD.version}",'])
def test_a_program_on_path_is_used_if_it_says_the_pinned_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    found = write_program(tmp_path / "bin" / "etcd", says)
    put_on_path(monkeypatch, tmp_path / "bin")
    assert find_or_build_module(ETCD) == {"etcd": found}


@pytest.mark.parametrize(
    "says", ["etcd Version: 3.7.4", f"1{ETCD.version}", f"{ETCD.version}-rc.1", f"{ETCD.version}1", ""]
)
def test_a_program_on_path_in_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    write_program(tmp_path / "bin" / "etcd", says)
    fake_go(tmp_path / "bin", says="# link: no space left on device", exit_code=1)
    put_on_path(monkeypatch, tmp_path / "bin")
    with pytest.raises(UserError, match="etcd was not built"):
        find_or_build_module(ETCD)


def fake_go(folder: Path, *, says: str, exit_code: int) -> None:
    """A Go that is new enough and fails as told, since a full disk cannot be had at will."""
    script = f"#!/bin/sh\nif [ \"$1\" = env ]; then echo go1.99.0; exit; fi\necho '{says}' >&2\nexit {exit_code}\n"
    path = write_program(folder / "go", "")
    path.write_text(script)


def test_a_failed_build_ends_with_what_go_said_and_leaves_nothing_half_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path / "bin", says="link: write: no space left on device", exit_code=1)
    put_on_path(monkeypatch, tmp_path / "bin")
    with pytest.raises(UserError, match=r"(?s)the disk is full.*write: no space left on device") as raised:
        find_or_build_module(ETCD)
    assert "Traceback" not in str(raised.value)
    assert [path.name for path in (tmp_path / "cache" / "bin").iterdir()] == [f"etcd-{ETCD.version}.lock"]


def test_a_half_finished_build_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Module("etcd", "1.0", {"first": "./first", "second": "./second"})
    first = write_program(tmp_path / "cache" / "bin" / "etcd-1.0" / "first", "made earlier")
    leftover = tmp_path / "cache" / "bin" / ".etcd-1.0-killed"
    leftover.mkdir()
    go = write_program(tmp_path / "bin" / "go", "")
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.99.0\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2/second"; shift; done\nexit 0\n'
    )
    put_on_path(monkeypatch, tmp_path / "bin")
    found = find_or_build_module(pair)
    assert found["first"] == first
    assert found["second"].read_text() == "built\n"
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("says", "want"),
    [
        ("compile: writing output: no space left on device", "disk is full"),
        ('Get "http://proxy/x.zip": dial tcp: lookup proxy: no such host', "network"),
        ("compile: signal: killed", "memory ran out"),
        ("undefined: x", "Go says"),
    ],
)
def test_a_failure_is_explained(says: str, want: str) -> None:
    assert want in explain_failure([says])
