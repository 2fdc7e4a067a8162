"""The work queue: a keyed queue with back-off, timers and resync, and the workers that empty it.

    add(key) ──> ready ──> a worker reconciles it ──┬─ in n seconds ──> timer ──> ready
                   ^       (one at a time per key;  ├─ None: the key is gone, forgotten
                   └────── added meanwhile: again)  └─ exception ──> back-off 1 s .. 5 min ──> ready

A key is reconciled again at the latest after the resync period, whatever happens. All times are the event loop's, in
seconds, so tests run on a virtual clock. Nothing here knows Kubernetes; a key is any hashable value.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 300.0
RESYNC_S = 600.0
SHORTEST_RESYNC = 0.5
"""The share of the resync period after which the first keys are due; the others are spread over the rest."""

K = TypeVar("K", bound=Hashable)


class Queue(Generic[K]):
    """A queue of keys: each waits at most once, and is in work at most once."""

    def __init__(self) -> None:
        self._ready: deque[K] = deque()
        self._queued: set[K] = set()
        self._in_work: set[K] = set()
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        """Return how many keys are ready for work."""
        return len(self._ready)

    def add(self, key: K) -> None:
        """Have `key` worked on now, or again when the work under way on it is done."""
        self._cancel_timer(key)
        if key in self._queued:
            return
        self._queued.add(key)
        if key not in self._in_work:
            self._make_ready(key)

    def add_after(self, key: K, delay_s: float) -> None:
        """Have `key` worked on in `delay_s`, unless it is due earlier already."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        timer = self._timers.get(key)
        if key in self._queued or (timer is not None and timer.when() <= due_s):
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_at(due_s, self.add, key)

    async def take(self) -> K:
        """Wait for a key and put it in work; `done` must follow."""
        while not self._ready:
            self._arrived.clear()
            await self._arrived.wait()
        key = self._ready.popleft()
        self._queued.discard(key)
        self._in_work.add(key)
        return key

    def done(self, key: K) -> None:
        """End the work on `key`; if it was added meanwhile it is ready again."""
        self._in_work.discard(key)
        if key in self._queued:
            self._make_ready(key)

    def _make_ready(self, key: K) -> None:
        self._ready.append(key)
        self._arrived.set()

    def _cancel_timer(self, key: K) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()


class Backoff(Generic[K]):
    """The wait after a key's n-th failure in a row: doubling, with jitter so that failures spread out."""

    def __init__(self, jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2)) -> None:  # noqa: S311 - no secret
        self._failures: dict[K, int] = {}
        self._jitter = jitter

    def next_s(self, key: K) -> float:
        """Count a failure of `key` and return the delay before the next try."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        doubled_s = FIRST_BACKOFF_S * 2.0 ** min(failures, 16)
        return min(LAST_BACKOFF_S, doubled_s * self._jitter())

    def reset(self, key: K) -> None:
        """Forget the failures of `key`, which has succeeded."""
        self._failures.pop(key, None)


class Workers(Generic[K]):
    """A number of workers that reconcile keys while `gate` lets them."""

    def __init__(
        self,
        reconcile: Callable[[K], Awaitable[float | None]],
        *,
        gate: Callable[[], Awaitable[None]],
        expected_errors: tuple[type[Exception], ...] = (),
        num_workers: int = 8,
        backoff: Backoff[K] | None = None,
    ) -> None:
        """Prepare the workers.

        Args:
            reconcile: returns in how many seconds to come back at the latest, or None where the key is gone. What it
                raises is logged and retried.
            gate: awaited before each key; returns when work is allowed.
            expected_errors: logged without a traceback.
            num_workers: that reconcile at the same time.
            backoff: between retries.
        """
        self.queue: Queue[K] = Queue()
        self._reconcile = reconcile
        self._gate = gate
        self._expected_errors = expected_errors
        self._num_workers = num_workers
        self._backoff = backoff or Backoff()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._num_workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self.queue.take()
            try:
                await self._gate()
                self._reschedule(key, await self._reconcile(key))
            except Exception as error:  # noqa: BLE001 - whatever goes wrong with one run must not stop the others
                self._retry(key, error)
            finally:
                self.queue.done(key)

    def _retry(self, key: K, error: Exception) -> None:
        delay_s = self._backoff.next_s(key)
        trace = None if isinstance(error, self._expected_errors) else error
        logger.warning("%s: trying again in %.1f s: %s: %s", key, delay_s, type(error).__name__, error, exc_info=trace)
        self.queue.add_after(key, delay_s)

    def _reschedule(self, key: K, again_s: float | None) -> None:
        self._backoff.reset(key)
        if again_s is not None:
            resync_s = RESYNC_S * random.uniform(SHORTEST_RESYNC, 1.0)  # noqa: S311 - jitter is no secret
            self.queue.add_after(key, min(max(again_s, 0.0), resync_s))
