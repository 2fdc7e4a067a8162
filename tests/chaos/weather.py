"""Seeded weather: which fault befalls which call.

It hangs on the seed, on the kind of call and on how many of that kind there were: so a seed means much the same however
busy the machine is. After `STORM_CALLS` calls of a kind the sky is clear.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import partial

from tests.chaos.proxy import Call, CutShort, Fault, Late, Nonsense, Refuse, Reset, Slow, Stream

STORM_CALLS = 30
OWN = {"trainingruns", "jobs", "pods", "services", "configmaps", "events", "leases"}
SHARE = 0.25
OTHER_SHARE = 0.05
WATCH_SHARE = 0.7
"""Of the calls in a storm that go wrong: fewer of those by which kopf finds out at its start what there is."""
WRITE_TIMEOUT_S = 5.5
"""More than the operator waits for an answer."""


class Storm:
    """The weather of one history."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self.played: list[str] = []

    def __call__(self, call: Call) -> Fault | None:
        number = self._counts[call.kind]
        self._counts[call.kind] += 1
        chance = random.Random(f"{self._seed}/{call.kind}/{number}")
        if number >= STORM_CALLS or chance.random() >= share_of(call):
            return None
        fault = draw_watch_fault(chance) if call.is_watch else draw_fault(call, chance)
        self.played.append(f"{call.kind} {number}: {fault}")
        return fault


def share_of(call: Call) -> float:
    resource = call.kind.split(" ")[1].split("/")[0]
    return WATCH_SHARE if call.is_watch else SHARE if resource in OWN else OTHER_SHARE


def draw_watch_fault(chance: random.Random) -> Fault:
    """Draw late events, a stream that breaks or is answered that it is too old, or a server that refuses."""
    return chance.choice(
        [
            Stream(lag_s=chance.uniform(0.05, 0.5)),
            Stream(end_after_s=chance.uniform(0, 3)),
            Stream(end_after_s=chance.uniform(0, 3), error_code=410),
            Refuse(429, "TooManyRequests", retry_after_s=1),
            Reset(after_commit=False),
        ]
    )


def draw_fault(call: Call, chance: random.Random) -> Fault:
    """Return what may befall a request, with more of it for writes."""
    faults: list[Fault] = [
        Refuse(429, "TooManyRequests", retry_after_s=1),
        Refuse(500, "InternalError"),
        Refuse(503, "ServiceUnavailable"),
        Reset(after_commit=False),
        Reset(after_commit=True),
        CutShort(),
        Nonsense(),
        Slow(chance.uniform(0.1, 1.5)),
    ]
    if call.method in ("PATCH", "DELETE", "PUT"):
        faults.append(Refuse(409, "Conflict"))
    if call.is_write and call.kind != "POST jobs":  # of two Jobs for one attempt `test_two_operators` has more to say
        faults.append(Late(partial(asyncio.sleep, chance.uniform(0.1, 2))))
    if call.is_write and chance.random() < 0.05:
        return Slow(WRITE_TIMEOUT_S)
    return chance.choice(faults)
