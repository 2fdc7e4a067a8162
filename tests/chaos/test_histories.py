"""Whatever befalls a run, its operator and the way to the API server: the run comes to where its script says.

A history is drawn from a seed: what happens to the run, the weather, and after which write the operator is killed.
`CHAOS_SEEDS=17` or `CHAOS_SEEDS=0-999` plays others than the usual ones in the long form.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chaos.history import World, after_write, in_world, kept_running
from tests.chaos.script import draw_script
from tests.chaos.weather import Storm
from tests.cluster.local_cluster import Cluster

SHORT_SEEDS = range(12)
NUM_SEEDS = 220
AT_ONCE = 24
MAX_WRITES = 40


async def play(world: World, seed: int) -> None:
    """Play one history. Raises AssertionError with all that is needed to play it again."""
    script, storm, chance = draw_script(seed), Storm(seed), random.Random(f"kill/{seed}")
    async with world.open_history(script) as history, world.open_operator(history, weather=storm) as operator:
        operator.proxy.on_commit = after_write(chance.randint(1, MAX_WRITES), operator.kill)
        async with kept_running(operator):
            await history.create_run()
            try:
                await history.arrive()
            except AssertionError as error:
                told = "\n  ".join(storm.played)
                raise AssertionError(f"seed {seed}: {error}\n{script}\n{operator.log}\n  {told}") from error


def play_all(control_plane: Cluster, folder: Path, seeds: Iterable[int]) -> None:
    """Play several at a time, and fail with all that went wrong."""
    broken: list[BaseException] = []

    async def story(world: World) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def take_turn(seed: int) -> None:
            async with turn:
                await play(world, seed)

        outcomes = await asyncio.gather(*map(take_turn, seeds), return_exceptions=True)
        broken.extend(outcome for outcome in outcomes if outcome is not None)

    in_world(control_plane.kubeconfig, folder, story)
    assert not broken, "\n\n".join(map(repr, broken))


def read_seeds() -> range:
    first, _, last = os.environ.get("CHAOS_SEEDS", f"0-{NUM_SEEDS - 1}").partition("-")
    return range(int(first), int(last or first) + 1)


def test_a_run_arrives_through_bad_weather_and_the_death_of_its_operator(
    control_plane: Cluster, tmp_path: Path
) -> None:
    play_all(control_plane, tmp_path, SHORT_SEEDS)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_so_do_hundreds_of_runs(control_plane: Cluster, tmp_path: Path) -> None:
    play_all(control_plane, tmp_path, read_seeds())
