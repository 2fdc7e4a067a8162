"""Whose turn it is among runs that share quotas: one at a time is let start, and those that wait are woken.

What is kept here is only what was seen since this process began, and nothing rests on it: each waiting run looks again
by itself after a while.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from runyard.api import Phase
from runyard.cluster import Cluster, Key
from runyard.status import is_finished
from runyard.world import Run, Tenancy


class Turns:
    """The runs of all namespaces, as last seen; `wake` has one looked at again."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._phases: defaultdict[str, dict[Key, Phase | None]] = defaultdict(dict)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def take(self, cluster: Cluster, run: Run) -> AsyncIterator[Tenancy | None]:
        """What `run` shares with others if it may start and quotas limit it. Inside, no other run of its namespace is
        let start: the pods of a Job just made are not in the quotas yet, and the next one to look must see the Job.
        """
        if not _may_start(run) or not await cluster.has_quota(run.namespace):
            yield None
            return
        async with self._locks[run.namespace]:
            yield await cluster.read_tenancy(run.namespace)

    def note(self, key: Key, phase: Phase | None) -> None:
        """A run was seen in `phase`, or is gone: where that is news, those that wait may move up."""
        phases = self._phases[key.namespace]
        if phases.get(key) == phase:
            return
        phases[key] = phase
        if phase is None:
            del phases[key]
        self.wake(key.namespace, but=key)

    def wake(self, namespace: str, but: Key | None = None) -> None:
        """Something about the namespace's quotas has changed."""
        for key, phase in self._phases[namespace].items():
            if phase is Phase.QUEUED and key != but:
                self._wake(key)


def _may_start(run: Run) -> bool:
    is_wanted = run.spec is not None and not run.spec.suspend and not is_finished(run.status)
    return is_wanted and run.status.attempt == run.status.ended_attempt
