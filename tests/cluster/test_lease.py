"""Who leads: several replicas and one Lease on a real API server, each with a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from kubernetes.aio.client import Configuration
from runyard.cluster.client import MERGE_PATCH, ApiError, Kube, connect
from runyard.cluster.lease import DURATION_S, RENEW_DEADLINE_S, Lease, LeaseKey

pytestmark = pytest.mark.usefixtures("as_administrator")

LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


@dataclass
class Clock:
    """A clock that the test turns, in seconds."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Replica:
    """One process of the operator, as far as the election goes."""

    lease: Lease
    clock: Clock
    changes: list[bool] = field(default_factory=list)

    @property
    def leads(self) -> bool:
        return self.lease.is_leader()

    async def try_after(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await self.lease.try_once()


@asynccontextmanager
async def open_replicas(*identities: str) -> AsyncIterator[list[Replica]]:
    name = f"test-{uuid4().hex[:8]}"
    async with connect() as kube:
        clocks = [Clock(1000.0 * number) for number, _ in enumerate(identities)]
        yield [
            Replica(Lease(kube, LeaseKey("default", name, identity), clock), clock)
            for identity, clock in zip(identities, clocks, strict=True)
        ]


def with_replicas(story: Callable[..., Awaitable[None]], *identities: str) -> None:
    async def main() -> None:
        async with open_replicas(*identities) as replicas:
            await story(*replicas)

    asyncio.run(main())


async def read(replica: Replica) -> dict[str, Any]:
    lease = await replica.lease.kube.get(f"{LEASES}/{replica.lease.key.name}")
    spec: dict[str, Any] = lease["spec"]
    return spec


def test_the_first_to_ask_leads_and_the_second_does_not() -> None:
    async def story(first: Replica, second: Replica) -> None:
        await first.try_after(0)
        await second.try_after(0)
        assert (first.leads, second.leads) == (True, False)
        assert (await read(first))["holderIdentity"] == "a"

    with_replicas(story, "a", "b")


def test_a_leader_that_renews_goes_on_leading_and_changes_hands_never() -> None:
    async def story(first: Replica, second: Replica) -> None:
        for _ in range(20):
            await first.try_after(2)
            await second.try_after(2)
            assert (first.leads, second.leads) == (True, False)
        assert (await read(first))["leaseTransitions"] == 1

    with_replicas(story, "a", "b")


def test_a_leader_that_cannot_renew_stops_before_its_successor_may_begin() -> None:
    async def story(first: Replica, second: Replica) -> None:
        await first.try_after(0)
        await second.try_after(0)
        first.clock.now_s += RENEW_DEADLINE_S
        assert not first.leads
        await second.try_after(DURATION_S - 0.1)
        assert not second.leads
        await second.try_after(0.1)
        assert second.leads
        await first.try_after(5)
        assert (first.leads, second.leads) == (False, True)

    with_replicas(story, "a", "b")


@pytest.mark.parametrize("renew_time", ["1990-01-01T00:00:00.000000Z", "2090-01-01T00:00:00.000000Z"])
def test_the_clock_of_the_holder_does_not_matter(renew_time: str) -> None:
    async def story(first: Replica, second: Replica) -> None:
        await first.try_after(0)
        body = {"spec": {"renewTime": renew_time}}
        await first.lease.kube.request("PATCH", f"{LEASES}/{first.lease.key.name}", body=body, content_type=MERGE_PATCH)
        await second.try_after(0)
        await second.try_after(DURATION_S - 1)
        assert not second.leads
        await second.try_after(1)
        assert second.leads

    with_replicas(story, "a", "b")


def test_a_released_lease_is_taken_at_once() -> None:
    async def story(first: Replica, second: Replica) -> None:
        await first.try_after(0)
        await second.try_after(0)
        await first.lease.release()
        assert not first.leads
        await second.try_after(0)
        assert second.leads
        assert (await read(first))["holderIdentity"] == "b"

    with_replicas(story, "a", "b")


def test_a_replica_that_does_not_lead_releases_nothing() -> None:
    async def story(first: Replica, second: Replica) -> None:
        await first.try_after(0)
        await second.try_after(0)
        await second.lease.release()
        assert (await read(first))["holderIdentity"] == "a"

    with_replicas(story, "a", "b")


def test_a_container_that_restarts_in_its_pod_leads_again_at_once() -> None:
    async def story(before: Replica, after: Replica) -> None:
        await before.try_after(0)
        await after.try_after(0)
        assert after.leads

    with_replicas(story, "pod", "pod")


def test_of_replicas_that_ask_at_the_same_moment_one_leads() -> None:
    async def story(*replicas: Replica) -> None:
        async def ask(replica: Replica) -> None:
            await replica.try_after(0)

        await asyncio.gather(*map(ask, replicas))
        assert [replica.leads for replica in replicas].count(True) == 1

    with_replicas(story, *"abcdefgh")


def test_a_lease_deleted_by_hand_is_made_anew() -> None:
    async def story(first: Replica) -> None:
        await first.try_after(0)
        await first.lease.kube.request("DELETE", f"{LEASES}/{first.lease.key.name}")
        await first.try_after(2)
        assert first.leads

    with_replicas(story, "a")


def test_leadership_runs_out_by_itself_while_the_api_server_is_away() -> None:
    async def story(first: Replica) -> None:
        await first.try_after(0)
        async with aiohttp.ClientSession() as session:
            first.lease.kube = Kube(Configuration(host="http://127.0.0.1:1"), session)
            with pytest.raises(ApiError, match="Cannot connect"):
                await first.try_after(RENEW_DEADLINE_S - 1)
        assert first.leads
        first.clock.now_s += 1
        assert not first.leads

    with_replicas(story, "a")


def test_whoever_waits_to_lead_is_woken_within_the_retry_period_of_a_release() -> None:
    async def main() -> None:
        async with connect() as kube:
            name = f"test-{uuid4().hex[:8]}"
            heard: list[bool] = []
            first = Lease(kube, LeaseKey("default", name, "a"))
            second = Lease(kube, LeaseKey("default", name, "b"), on_change=heard.append)
            await first.try_once()
            running = asyncio.create_task(second.run())
            waiting = asyncio.create_task(second.wait_until_leader())
            await second.try_once()
            assert not waiting.done()
            await first.release()
            await asyncio.wait_for(waiting, 10)
            assert second.is_leader()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await second.release()
            assert heard == [True, False]

    asyncio.run(main())
