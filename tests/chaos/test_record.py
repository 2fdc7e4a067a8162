"""The record is what every other test here rests on: it misses nothing, however late it hears of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.chaos.history import World, in_world, kept_running
from tests.chaos.script import Script
from tests.cluster.local_cluster import Cluster


def test_a_watch_that_begins_late_misses_nothing(
    control_plane: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_attempt, dispatch = asyncio.Event(), World.dispatch

    async def dispatch_runs_late(world: World, plural: str, since: str) -> None:
        if plural == "trainingruns":
            await first_attempt.wait()
        await dispatch(world, plural, since)

    monkeypatch.setattr(World, "dispatch", dispatch_runs_late)

    async def story(world: World) -> None:
        async with (
            world.open_history(Script()) as history,
            world.open_operator(history) as operator,
            kept_running(operator),
        ):
            await history.create_run()
            await history.record.wait_for(lambda record: "cpt-a1" in record.jobs, "an attempt", 60)
            assert not history.record.runs
            first_attempt.set()
            await history.arrive()

    in_world(control_plane.kubeconfig, tmp_path, story)
