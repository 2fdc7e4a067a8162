"""The log that the process above a container writes."""

from __future__ import annotations

import os
from pathlib import Path

from runyard_local.node.container.shim import write_log


def test_each_line_of_a_log_starts_with_its_time(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"one\ntwo\n\nthree")
    os.close(writer)
    write_log(reader, str(tmp_path / "log"))
    os.close(reader)
    lines = (tmp_path / "log").read_bytes().split(b"\n")
    assert [line.partition(b" ")[2] for line in lines] == [b"one", b"two", b"", b"three"]
    assert all(len(line.partition(b" ")[0]) == len("2026-01-01T00:00:00.000000000Z") for line in lines)
