"""Who is woken when quota may have come free."""

from __future__ import annotations

from runyard.api.trainingrun import Phase
from runyard.control.wakeups import Turns
from runyard.decide.values import Key


def test_those_that_wait_in_a_namespace_are_woken_by_its_quotas_and_by_what_becomes_of_the_others() -> None:
    woken: list[str] = []
    turns = Turns(lambda key: woken.append(str(key)))

    def woken_by(namespace: str, name: str, phase: Phase | None) -> list[str]:
        woken.clear()
        turns.note(Key(namespace, name), phase)
        return sorted(woken)

    assert woken_by("a", "first", Phase.QUEUED) == []
    assert woken_by("a", "second", Phase.QUEUED) == ["a/first"], "it may be of a higher priority"
    assert woken_by("b", "other", Phase.RUNNING) == []
    assert woken_by("a", "third", Phase.RUNNING) == ["a/first", "a/second"]
    assert woken_by("a", "third", Phase.RUNNING) == [], "nothing has changed"
    assert woken_by("a", "third", None) == ["a/first", "a/second"]
    assert woken_by("a", "third", None) == [], "it was gone before"
    turns.wake("b")
    assert woken == []
    turns.wake("a")
    assert sorted(woken) == ["a/first", "a/second"]
