"""The lease that decides which replica works: a coordination.k8s.io Lease, held for 15 s and renewed every 2 s.

    standby ── lease free, released, or unchanged for 15 s ──> leading ── no renewal for 10 s, or lost ──> standby

Other replicas' clocks are never compared with ours: a lease has expired when this process has seen no change in it for
its duration, by the monotonic clock. `is_leader` is called before every write; it turns false by itself 10 s after the
last successful renewal was *sent*, so 5 s before anyone else may begin. A replica that is paused in between can still
have one write under way: `cluster.runs` makes every write harmless.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runyard_trainer.contract.times import format_microseconds

from runyard.cluster.client import ApiError, Kube
from runyard.decide.values import Manifest

logger = logging.getLogger(__name__)

DURATION_S = 15
RENEW_DEADLINE_S = 10.0
RETRY_PERIOD_S = 2.0


@dataclass(frozen=True)
class LeaseKey:
    """The Lease's namespace and name, and the name under which this process holds it."""

    namespace: str
    name: str
    identity: str
    """The pod's name: a container that restarts in its pod goes on at once, since it has only one at a time."""

    @property
    def collection(self) -> str:
        """Return the API path of the namespace's Leases."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"


@dataclass
class Lease:
    """A candidate in the election. `run` until cancelled, then `release`."""

    kube: Kube
    key: LeaseKey
    clock: Callable[[], float] = time.monotonic
    on_change: Callable[[bool], None] = lambda _: None
    """Called whenever leadership is won or lost."""
    _leading_until_s: float = float("-inf")
    _seen: Manifest = field(default_factory=dict)
    _seen_at_s: float = float("-inf")
    _was_leader: bool = False
    _is_leading: asyncio.Event = field(default_factory=asyncio.Event)

    def is_leader(self) -> bool:
        """Return whether this process may write: its last renewal is less than the renew deadline old."""
        return self.clock() < self._leading_until_s

    async def wait_until_leader(self) -> None:
        """Return when this process leads."""
        while not self.is_leader():
            self._is_leading.clear()
            await self._is_leading.wait()

    async def run(self) -> None:
        """Acquire and renew, for ever. Errors are logged; leadership then runs out by itself."""
        while True:
            try:
                await asyncio.wait_for(self.try_once(), RENEW_DEADLINE_S - RETRY_PERIOD_S)
            except (ApiError, TimeoutError) as error:
                logger.warning("the lease %s could not be renewed: %s", self.key.name, error or "timed out")
            self._note_leadership()
            await asyncio.sleep(self._pause_s())

    async def try_once(self) -> None:
        """Take the lease if it may be taken, renew it if it is ours. Raises ApiError."""
        sent_s = self.clock()
        self._note_seen(await self._read())
        if not self._may_take():
            self._leading_until_s = float("-inf")
            return
        try:
            self._note_seen(await self._put(holder=self.key.identity))
        except ApiError as error:
            if error.status != 409:
                raise
            self._leading_until_s = float("-inf")
        else:
            self._leading_until_s = sent_s + RENEW_DEADLINE_S

    async def release(self) -> None:
        """Give the lease up, so that a successor begins at once. Call it when nothing writes any more."""
        if not self.is_leader():
            return
        self._leading_until_s = float("-inf")
        self._note_leadership()
        try:
            await self._put(holder="")
            logger.info("released the lease %s", self.key.name)
        except ApiError as error:
            logger.warning("the lease %s could not be released: %s", self.key.name, error)

    def _pause_s(self) -> float:
        """Return the wait before the next try: the retry period, or less where the holder's time ends sooner."""
        pause_s = RETRY_PERIOD_S * random.uniform(0.8, 1.2)  # noqa: S311 - jitter is no secret
        remaining_s = self._expires_at_s() - self.clock()
        return remaining_s if not self.is_leader() and 0 < remaining_s < pause_s else pause_s

    def _note_seen(self, lease: Manifest) -> None:
        if lease != self._seen:
            self._seen, self._seen_at_s = lease, self.clock()

    def _may_take(self) -> bool:
        spec = self._seen.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        return holder in ("", self.key.identity) or self.clock() >= self._expires_at_s()

    def _expires_at_s(self) -> float:
        """Return when the lease may be taken from its holder, unless it changes before."""
        duration_s: float = self._seen.get("spec", {}).get("leaseDurationSeconds") or DURATION_S
        return self._seen_at_s + duration_s

    async def _read(self) -> Manifest:
        """Read the Lease as stored; empty where there is none yet."""
        try:
            return await self.kube.request("GET", f"{self.key.collection}/{self.key.name}", attempts=1)
        except ApiError as error:
            if error.status == 404:
                return {}
            raise

    async def _put(self, holder: str) -> Manifest:
        lease = self._as_held_by(holder)
        if "resourceVersion" not in lease["metadata"]:
            return await self.kube.request("POST", self.key.collection, body=lease, attempts=1)
        return await self.kube.request("PUT", f"{self.key.collection}/{self.key.name}", body=lease, attempts=1)

    def _as_held_by(self, holder: str) -> Manifest:
        """Build the Lease to store; by the resourceVersion that was seen it fails where another was quicker."""
        now = format_microseconds(datetime.now(UTC))
        old: dict[str, Any] = self._seen.get("spec", {})
        changes_hands = old.get("holderIdentity") != holder
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": self._seen.get("metadata") or {"name": self.key.name, "namespace": self.key.namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": DURATION_S,
                "acquireTime": now if changes_hands else old.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": old.get("leaseTransitions", 0) + (1 if changes_hands and holder else 0),
            },
        }

    def _note_leadership(self) -> None:
        leads = self.is_leader()
        if leads:
            self._is_leading.set()
        if leads != self._was_leader:
            self._was_leader = leads
            logger.info("%s the lease %s", "holding" if leads else "not holding", self.key.name)
            self.on_change(leads)
