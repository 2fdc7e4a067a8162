"""Whose turn it is among runs that share quotas: one at a time is let start, and those that wait are woken.

What is kept here is only what was seen since this process began, and nothing rests on it: each waiting run looks again
by itself after a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from runyard.api.trainingrun import Phase
from runyard.decide.values import Key


class Turns:
    """The runs of all namespaces, as last seen; `wake` has one looked at again."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._phases: defaultdict[str, dict[Key, Phase]] = defaultdict(dict)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def take(self, namespace: str) -> asyncio.Lock:
        """Held from the look at quotas to what follows from it: the pods of a Job just made are not in the quotas yet,
        and the next run to look must see the Job.
        """
        return self._locks[namespace]

    def note(self, key: Key, phase: Phase | None) -> None:
        """A run was seen in `phase`, or is gone (None): where that is news, those that wait may move up."""
        phases = self._phases[key.namespace]
        if phases.get(key) == phase:
            return
        if phase is None:
            del phases[key]
        else:
            phases[key] = phase
        self.wake(key.namespace, but=key)

    def wake(self, namespace: str, but: Key | None = None) -> None:
        """Something has changed that runs of the namespace may wait for."""
        for key, phase in self._phases[namespace].items():
            if phase is Phase.QUEUED and key != but:
                self._wake(key)
