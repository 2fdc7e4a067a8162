"""Files that others read while they are written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from runyard_local.files import replace_file


@pytest.mark.parametrize("mode", [0o600, 0o444])
def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "record.json"
    replace_file(path, b"a long first text")
    (tmp_path / ".record.json.tmp").write_bytes(b"what a killed writer left")
    replace_file(path, b"short", mode)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"short", mode)
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_mode_only_the_owner_can_read_it(tmp_path: Path) -> None:
    replace_file(tmp_path / "key", b"")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
