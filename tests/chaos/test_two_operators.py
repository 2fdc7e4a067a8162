"""Two replicas: the leader is killed, frozen past its lease, or cut off, in the middle of a write.

The standby takes over within 20 s, and of what the old leader has sent or sends after that nothing takes effect: the
audit log of the API server says so.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.conftest import audit_log
from tests.chaos.history import History, World, in_world
from tests.chaos.operators import Operator
from tests.chaos.proxy import Call, Fault, Late, Write
from tests.chaos.record import status_of
from tests.chaos.script import Act, Script
from tests.cluster.local_cluster import Cluster

TAKEOVER_S = 20
RECOVERS = Script(acts=(Act("crash"), Act("finish")))
IS_SUSPENDED = Script(acts=(Act("be suspended"), Act("finish")))


@dataclass
class Pair:
    """A leader, its standby, and the run that they care for."""

    history: History
    leader: Operator
    standby: Operator
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets a write through that was held back."""

    async def holder(self) -> str:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.history.namespace}/leases/runyard-operator"
        lease = await self.history.api.try_to(self.history.api.get(path), 404)
        return str(lease["spec"]["holderIdentity"]) if lease else ""

    async def wait_for_holder(self, name: str, deadline_s: float) -> None:
        async with asyncio.timeout(deadline_s):
            while await self.holder() != name:
                await asyncio.sleep(0.1)

    async def start(self) -> None:
        """Elect the leader, then have the standby watch it."""
        self.leader.start()
        await self.wait_for_holder(self.leader.name, 60)
        self.standby.start()
        async with asyncio.timeout(60):
            while not self.standby.proxy.calls["GET leases"]:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def open_pair(world: World, script: Script) -> AsyncIterator[Pair]:
    async with (
        world.open_history(script) as history,
        world.open_operator(history, "leader") as leader,
        world.open_operator(history, "standby") as standby,
    ):
        pair = Pair(history, leader, standby)
        await pair.start()
        yield pair


# -------------------------------------------------------------------------------------------------------- the audit log


def read_audit(control_plane: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Return what was written in a namespace, in the order in which it was asked for."""
    events = map(json.loads, audit_log(control_plane).read_text().splitlines())
    found = [event for event in events if event["objectRef"].get("namespace") == namespace]
    return sorted(found, key=lambda event: str(event["requestReceivedTimestamp"]))


def find_stale_writes(audit: list[dict[str, Any]]) -> dict[str, int]:
    """Return what the old leader has asked for after the standby had the lease, and how it was answered.

    Events are for people: one that is told late does no harm.
    """
    taken_over_at = next(
        event["stageTimestamp"]
        for event in audit
        if event["userAgent"] == "standby"
        and event["objectRef"]["resource"] == "leases"
        and event["responseStatus"]["code"] < 300
    )
    return {
        f"{event['verb']} {event['requestURI']}": event["responseStatus"]["code"]
        for event in audit
        if event["userAgent"] == "leader"
        and event["requestReceivedTimestamp"] > taken_over_at
        and event["objectRef"]["resource"] not in ("events", "leases")
    }


# ------------------------------------------------------------------------------------------------------------- takeover


def kill(pair: Pair) -> None:
    pair.leader.kill()


def freeze(pair: Pair) -> None:
    pair.leader.send(signal.SIGSTOP)


def cut_off(pair: Pair) -> None:
    pair.leader.proxy.cut_off()


async def start_anew(pair: Pair) -> None:
    pair.leader.start()


async def thaw(pair: Pair) -> None:
    pair.leader.send(signal.SIGCONT)


async def connect_again(pair: Pair) -> None:
    pair.leader.proxy.is_cut_off = False


async def take_over(world: World, strike: Callable[[Pair], None], undo: Callable[[Pair], Awaitable[None]]) -> Pair:
    """Strike the leader in the middle of starting the first attempt."""
    struck = asyncio.Event()

    def on_commit(write: Write) -> None:
        if write.call.kind == "POST services":
            strike(pair)
            struck.set()

    async with open_pair(world, RECOVERS) as pair:
        pair.leader.proxy.on_commit = on_commit
        await pair.history.create_run()
        await struck.wait()
        await pair.wait_for_holder("standby", TAKEOVER_S)
        await pair.history.wait_until_known(2)
        await undo(pair)
        await pair.history.arrive()
        calls = pair.leader.proxy.calls["GET leases"]
        async with asyncio.timeout(30):
            while pair.leader.proxy.calls["GET leases"] < calls + 2:
                await asyncio.sleep(0.1)
        assert await pair.holder() == "standby"
        assert pair.leader.is_running
    return pair


def test_the_standby_takes_over_from_a_leader_that_is_killed_frozen_or_cut_off_and_keeps_the_lease(
    control_plane: Cluster, tmp_path: Path
) -> None:
    pairs: list[Pair] = []

    async def story(world: World) -> None:
        pairs.extend(
            await asyncio.gather(
                take_over(world, kill, start_anew),
                take_over(world, freeze, thaw),
                take_over(world, cut_off, connect_again),
            )
        )

    in_world(control_plane.kubeconfig, tmp_path, story)
    for pair in pairs:
        assert not find_stale_writes(read_audit(control_plane, pair.history.namespace)), pair.leader.log.read_text()


# ---------------------------------------------------------------------------------------------------------- late writes


def hold_back(pair: Pair, kind: str, number: int, held: asyncio.Event) -> Callable[[Call], Fault | None]:
    """Return weather in which the n-th write of a kind is sent, its sender frozen, and the write kept on its way."""
    seen = [0]

    async def arrival() -> None:
        freeze(pair)
        held.set()
        await pair.release.wait()

    def weather(call: Call) -> Fault | None:
        seen[0] += call.kind == kind
        return Late(arrival) if call.kind == kind and seen[0] == number + 1 and not held.is_set() else None

    return weather


async def arrive_late(world: World, script: Script, kind: str, number: int) -> Pair:
    """Let the write arrive when the standby has brought the run to its end."""
    held = asyncio.Event()
    async with open_pair(world, script) as pair:
        pair.leader.proxy.weather = hold_back(pair, kind, number, held)
        await pair.history.create_run()
        await held.wait()
        await pair.wait_for_holder("standby", TAKEOVER_S)
        await pair.history.arrive()
        end = status_of(pair.history.record.runs[-1])
        writes = len(pair.leader.proxy.writes)
        pair.release.set()
        async with asyncio.timeout(30):
            while len(pair.leader.proxy.writes) == writes:
                await asyncio.sleep(0.05)
        await thaw(pair)
        num_jobs = sum(write.call.kind == "POST jobs" and write.status < 300 for write in all_writes(pair))
        await pair.history.record.wait_for(
            lambda record: record.is_over() and sum(map(len, record.jobs.values())) == num_jobs, "over again", 60
        )
        assert status_of(pair.history.record.runs[-1]) == end
    return pair


def all_writes(pair: Pair) -> list[Write]:
    return pair.leader.proxy.writes + pair.standby.proxy.writes


REFUSED, MADE = {404, 409}, {201}
LATE = [
    (RECOVERS, "POST configmaps", 0, REFUSED),
    (RECOVERS, "POST jobs", 0, REFUSED),
    (RECOVERS, "PATCH trainingruns/status", 0, REFUSED),
    (RECOVERS, "POST services", 0, REFUSED),
    (RECOVERS, "POST jobs", 1, REFUSED),
    (RECOVERS, "PATCH trainingruns/status", 3, REFUSED),
    (IS_SUSPENDED, "DELETE jobs", 0, REFUSED),
    (IS_SUSPENDED, "POST jobs", 1, MADE),  # the name is free again: the Job is deleted as soon as it is seen
]


def test_a_write_that_a_frozen_leader_has_sent_does_no_harm_when_it_arrives_after_the_takeover(
    control_plane: Cluster, tmp_path: Path
) -> None:
    pairs: list[Pair] = []

    async def story(world: World) -> None:
        pairs.extend(await asyncio.gather(*(arrive_late(world, *which) for *which, _ in LATE)))

    in_world(control_plane.kubeconfig, tmp_path, story)
    for pair, (*which, want) in zip(pairs, LATE, strict=True):
        answers = set(find_stale_writes(read_audit(control_plane, pair.history.namespace)).values())
        assert answers, which
        assert answers <= want, which
        if want is REFUSED:
            pair.history.record.check()
