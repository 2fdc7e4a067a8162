"""Times and durations as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from runyard_trainer.contract.times import (
    format_duration,
    format_microseconds,
    format_milliseconds,
    format_past_time,
    format_time,
    parse_time,
)

BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (59, "59s"),
        (59.6, "1m"),
        (60, "1m"),
        (61, "1m 1s"),
        (245, "4m 5s"),
        (5520, "1h 32m"),
        (3600, "1h"),
        (3601, "1h"),
        (86_400, "1d"),
        (200_000, "2d 7h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_time_to_wait_for_is_utc_and_never_earlier_than_meant() -> None:
    assert format_time(datetime(2026, 1, 1, 1, 0, 0, 1, tzinfo=BERLIN)) == "2026-01-01T00:00:01Z"
    assert parse_time("2026-01-01T00:00:01Z") == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)


def test_what_has_happened_is_never_later_than_it_was() -> None:
    assert format_past_time(datetime(2026, 1, 1, 1, 0, 0, 999_999, tzinfo=BERLIN)) == "2026-01-01T00:00:00Z"


def test_parts_of_a_second_have_a_fixed_number_of_digits() -> None:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    assert format_milliseconds(time.timestamp() + 0.25) == "2026-01-01T00:00:00.250Z"
    assert format_microseconds(time) == "2026-01-01T00:00:00.000000Z"
