"""Which part of a log is shown."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from runyard_local.node.logs import LogOptions, TimeStripper, read_log_options, select_lines

LOG = b"".join(b"2026-01-01T00:00:0%d.000000000Z line %d\n" % (number, number) for number in range(4))


@pytest.mark.parametrize(
    ("wanted", "want"),
    [
        pytest.param(LogOptions(), b"line 0\nline 1\nline 2\nline 3\n", id="all of it, without times"),
        pytest.param(LogOptions(tail_lines=1), b"line 3\n", id="the last line"),
        pytest.param(LogOptions(tail_lines=0), b"", id="no line"),
        pytest.param(LogOptions(tail_lines=9, limit_bytes=8), b"line 0\nl", id="the first bytes"),
        pytest.param(LogOptions(since="2026-01-01T00:00:02.000000000Z"), b"line 2\nline 3\n", id="since a time"),
        pytest.param(
            LogOptions(tail_lines=1, timestamps=True), b"2026-01-01T00:00:03.000000000Z line 3\n", id="with times"
        ),
    ],
)
def test_selection(wanted: LogOptions, want: bytes) -> None:
    assert select_lines(LOG, wanted) == want


def test_options_of_the_api_server_are_understood() -> None:
    now = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    query = {"sinceSeconds": "58", "tailLines": "5", "limitBytes": "7", "timestamps": "true", "follow": "true"}
    assert read_log_options(query, now) == LogOptions("2026-01-01T00:00:02.000000000Z", 5, 7, timestamps=True)
    assert read_log_options({"sinceTime": "2026-01-01T00:00:02Z"}, now) == LogOptions("2026-01-01T00:00:02.000000000Z")


def test_a_progress_bar_is_one_line() -> None:
    assert select_lines(LOG[:30] + b" 10%\r20%\rdone\n", LogOptions()) == b"10%\r20%\rdone\n"


@pytest.mark.parametrize("size", [1, 7, 31, 1000])
def test_a_log_read_in_pieces_loses_its_times_and_nothing_else(size: int) -> None:
    stripper = TimeStripper(is_inside_line=False)
    pieces = [LOG[start : start + size] for start in range(0, len(LOG), size)]
    assert b"".join(stripper.strip(piece) for piece in pieces) == select_lines(LOG, LogOptions())


def test_reading_may_begin_inside_a_line() -> None:
    assert TimeStripper(is_inside_line=True).strip(b"end\n" + LOG[:38]) == b"end\nline 0\n"
