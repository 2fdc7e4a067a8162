"""Points in time as text, RFC 3339 in UTC, and durations for people.

format_time           2026-05-04T12:00:00Z          a time to wait for, rounded up
format_past_time      2026-05-04T12:00:00Z          what has happened, rounded down
format_milliseconds   2026-05-04T12:00:00.123Z      metrics.csv
format_microseconds   2026-05-04T12:00:00.123456Z   Kubernetes' MicroTime: Leases, Events
format_duration       1h 32m
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def format_time(time: datetime) -> str:
    """Format with whole seconds, rounded up so that no wait until then is cut short."""
    if time.microsecond:
        time = time.replace(microsecond=0) + timedelta(seconds=1)
    return _format(time, "seconds")


def format_past_time(time: datetime) -> str:
    """Format with whole seconds, rounded down."""
    return _format(time, "seconds")


def format_milliseconds(unix_s: float) -> str:
    """Format a UNIX time with milliseconds, rounded down."""
    return _format(datetime.fromtimestamp(unix_s, UTC), "milliseconds")


def format_microseconds(time: datetime) -> str:
    """Format with microseconds."""
    return _format(time, "microseconds")


def _format(time: datetime, unit: str) -> str:
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=unit) + "Z"


def parse_time(text: str) -> datetime:
    """Parse RFC 3339. Raises ValueError."""
    return datetime.fromisoformat(text)


def format_duration(seconds: float) -> str:
    """Format with the two largest units, without a second one that is 0: 1h 32m, 2d."""
    left = round(seconds)
    counts = [(left // 86400, "d"), (left // 3600 % 24, "h"), (left // 60 % 60, "m"), (left % 60, "s")]
    first = next((place for place, (count, _) in enumerate(counts) if count), len(counts) - 1)
    (count, unit), *others = counts[first : first + 2]
    return " ".join([f"{count}{unit}", *(f"{other}{its_unit}" for other, its_unit in others if other)])
