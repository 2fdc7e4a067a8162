"""The Event that is made of what a plan says about a run."""

from __future__ import annotations

from datetime import UTC, datetime

from runyard.cluster.events import build_event, subject_of
from runyard.decide.values import Event

from tests.builders import make_run


def test_an_event_names_its_run_and_the_same_words_make_the_same_event() -> None:
    run = make_run()
    event = Event("Warning", "AttemptFailed", "x" * 2000)
    now = datetime(2026, 1, 31, tzinfo=UTC)
    manifest = build_event(subject_of(run), "attempt 1", event, "pod-1", now)
    again = build_event(subject_of(run), "attempt 1", event, "pod-2", datetime.now(UTC))
    of_next_attempt = build_event(subject_of(run), "attempt 2", event, "pod-1", now)
    assert manifest["regarding"]["uid"] == "uid-1"
    assert len(manifest["note"]) == 1024
    assert manifest["metadata"]["name"] == again["metadata"]["name"] != of_next_attempt["metadata"]["name"]
