"""Points in time as Kubernetes writes them: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def format_time(time: datetime) -> str:
    """As text; what is left of a second counts as a whole one, so that no wait is cut short."""
    if time.microsecond:
        time = time.replace(microsecond=0) + timedelta(seconds=1)
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """From text. Raises ValueError."""
    return datetime.fromisoformat(text)


def format_duration(seconds: int) -> str:
    """For people, with the two largest units: 1h 32m."""
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    first = next((place for place, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number}{unit}" for number, unit in parts[first : first + 2] if number or first == len(parts) - 1)
