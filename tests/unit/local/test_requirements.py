"""A machine on which pods cannot run says so before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_local.requirements import check_requirements
from runyard_trainer.contract.exits import UserError


def put_unshare_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "unshare"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_machine_that_allows_user_namespaces_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_unshare_on_path(tmp_path, monkeypatch, "exit 0")
    check_requirements()


def test_a_machine_that_refuses_user_namespaces_says_what_refused_and_how_to_allow_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_unshare_on_path(tmp_path, monkeypatch, "echo 'unshare failed: Operation not permitted' >&2; exit 1")
    with pytest.raises(UserError, match=r"(?s)user namespaces.*Operation not permitted.*(sysctl|--security-opt)"):
        check_requirements()


def test_a_machine_without_util_linux_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install util-linux"):
        check_requirements()
