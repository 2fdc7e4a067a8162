"""Who is woken when quota may have come free."""

from __future__ import annotations

from runyard.api.trainingrun import ConditionType, QueuePlace, TrainingRunStatus
from runyard.control.wakeups import Wakeups
from runyard.decide.status import read_quota_claim
from runyard.decide.values import Key

from tests.builders import make_status

QUEUED = TrainingRunStatus(queue=QueuePlace(message="needs 16"))
STARTING = make_status(ConditionType.ADMITTED, attempt=1)
RUNNING = make_status(ConditionType.ADMITTED, ConditionType.RUNNING, attempt=1)
GAVE_BACK = make_status(ConditionType.ADMITTED, attempt=1, ended_attempt=1)


def test_those_that_wait_in_a_namespace_are_woken_by_its_quotas_and_by_what_becomes_of_the_others() -> None:
    woken: list[str] = []
    wakeups = Wakeups(lambda key: woken.append(str(key)))

    def woken_by(namespace: str, name: str, status: TrainingRunStatus | None) -> list[str]:
        woken.clear()
        wakeups.note(Key(namespace, name), None if status is None else read_quota_claim(status))
        return sorted(woken)

    assert woken_by("a", "first", QUEUED) == []
    assert woken_by("a", "second", QUEUED) == ["a/first"], "it may be of a higher priority"
    assert woken_by("b", "other", RUNNING) == []
    assert woken_by("a", "third", STARTING) == ["a/first", "a/second"]
    assert woken_by("a", "third", RUNNING) == ["a/first", "a/second"]
    assert woken_by("a", "third", RUNNING) == [], "nothing has changed"
    assert woken_by("a", "third", GAVE_BACK) == ["a/first", "a/second"], "its pods are gone"
    assert woken_by("a", "third", None) == ["a/first", "a/second"]
    assert woken_by("a", "third", None) == [], "it was gone before"
    wakeups.wake("b")
    assert woken == []
    wakeups.wake("a")
    assert sorted(woken) == ["a/first", "a/second"]
