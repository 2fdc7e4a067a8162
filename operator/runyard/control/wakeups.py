"""The wakeups of runs that wait for quota, and the lock under which one run of a namespace at a time is admitted.

Only what this process has seen since it began is kept here, and correctness does not depend on it: each waiting run is
also reconciled again after a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from runyard.decide.status import QuotaClaim
from runyard.decide.values import Key


class Wakeups:
    """The runs of all namespaces, as last seen; `wake_run` has one reconciled."""

    def __init__(self, wake_run: Callable[[Key], None]) -> None:
        self._wake_run = wake_run
        self._claims: defaultdict[str, dict[Key, QuotaClaim]] = defaultdict(dict)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def admission_lock(self, namespace: str) -> asyncio.Lock:
        """Return the lock to hold from reading the quotas to creating the Job: the quotas do not count the pods of a
        new Job yet, and the next run to be admitted must see the Job.
        """
        return self._locks[namespace]

    def note(self, key: Key, claim: QuotaClaim | None) -> None:
        """Note a run's claim; None: the run is gone. Where it has changed, wake those that wait in its namespace."""
        claims = self._claims[key.namespace]
        if claims.get(key) == claim:
            return
        if claim is None:
            del claims[key]
        else:
            claims[key] = claim
        self.wake(key.namespace, but=key)

    def wake(self, namespace: str, but: Key | None = None) -> None:
        """Wake the runs of the namespace that wait for quota, except one."""
        for key, claim in self._claims[namespace].items():
            if claim.is_queued and key != but:
                self._wake_run(key)
