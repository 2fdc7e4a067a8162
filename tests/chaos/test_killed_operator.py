"""The operator is killed after each of its writes, before it knows that the write was taken."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.chaos.history import RUN, History, World, after_write, in_world, kept_running
from tests.chaos.operators import Operator
from tests.chaos.proxy import Call, Fault, Nonsense, Stream, Write
from tests.chaos.record import status_of
from tests.chaos.script import Act, Script
from tests.cluster.local_cluster import Cluster
from tests.ports import free_port

LIFE = Script(acts=(Act("crash", rank=0, checkpoint=5), Act("be suspended"), Act("finish")), max_failures=1)
"""Every kind of write that the operator makes in a run's life, it makes in this one."""
FEWEST_WRITES, MOST_WRITES = 20, 40
"""That it takes: how many depends on what the operator happens to see."""


async def live(world: World, on_commit: Callable[[Operator], Callable[[Write], None]]) -> Operator:
    """Live one life, and return its operator, which has ended."""
    async with world.open_history(LIFE) as history, world.open_operator(history) as operator:
        operator.proxy.on_commit = on_commit(operator)
        async with kept_running(operator):
            await history.create_run()
            await history.arrive()
    return operator


@pytest.mark.full
def test_a_run_arrives_after_whichever_write_its_operator_is_killed(control_plane: Cluster, tmp_path: Path) -> None:
    async def story(world: World) -> None:
        async def live_and_die(number: int) -> int:
            return (await live(world, lambda operator: after_write(number, operator.kill))).num_starts

        starts = await asyncio.gather(*map(live_and_die, range(1, MOST_WRITES + 1)))
        assert set(starts[:FEWEST_WRITES]) == {2}, starts
        assert starts[-1] == 1, f"there are more than {MOST_WRITES} writes"

    in_world(control_plane.kubeconfig, tmp_path, story)


def test_a_run_arrives_though_its_operator_dies_at_every_write(control_plane: Cluster, tmp_path: Path) -> None:
    def kill_at_each(operator: Operator) -> Callable[[Write], None]:
        return lambda write: None if write.call.is_lease else operator.kill()

    async def story(world: World) -> None:
        operator = await live(world, kill_at_each)
        assert operator.num_starts > len(LIFE.acts)

    in_world(control_plane.kubeconfig, tmp_path, story)


def test_a_finished_run_stays_as_it_is_when_its_jobs_are_gone_and_its_operator_starts_anew(
    control_plane: Cluster, tmp_path: Path
) -> None:
    async def story(world: World) -> None:
        async with world.open_history(Script()) as history:
            async with world.open_operator(history) as operator, kept_running(operator):
                await history.create_run()
                await history.arrive()
            end = status_of(history.record.runs[-1])
            jobs = f"/apis/batch/v1/namespaces/{history.namespace}/jobs"
            await history.api.request("DELETE", jobs, {"propagationPolicy": "Background"})
            await history.record.wait_for(lambda record: not record.present and not record.pods, "clean", 60)
            async with world.open_operator(history) as operator:
                operator.metrics_port = free_port()
                async with kept_running(operator):
                    await watch_passes(history, operator)
                assert not [write for write in operator.proxy.writes if not write.call.is_lease]
            assert status_of(history.record.runs[-1]) == end
            history.record.check()

    in_world(control_plane.kubeconfig, tmp_path, story)


async def watch_passes(history: History, operator: Operator) -> None:
    """Wait until the operator has looked at the run twice, which it need not read for that."""
    async with asyncio.timeout(60):
        for number in itertools.count():
            if await count_passes(operator) >= 2:
                return
            touched = {"metadata": {"annotations": {"looked": str(number)}}}
            await history.api.patch(f"{history.path}/{RUN}", touched)
            await asyncio.sleep(0.1)


async def count_passes(operator: Operator) -> float:
    """Return how many passes have ended well; none while it starts."""
    url = f"http://127.0.0.1:{operator.metrics_port}/metrics"
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
    except aiohttp.ClientConnectionError:
        return 0
    found = re.search(r'^runyard_reconciles_total\{result="ok"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_an_operator_that_cannot_watch_any_more_ends_so_that_it_is_started_anew(
    control_plane: Cluster, tmp_path: Path
) -> None:
    faults = {
        "GET trainingruns": Nonsense(),
        "WATCH jobs": Stream(end_after_s=0.5),
        "WATCH pods": Stream(end_after_s=0.5),
    }

    def weather(call: Call) -> Fault | None:
        return faults.get(call.kind)

    async def story(world: World) -> None:
        async with world.open_history(Script()) as history, world.open_operator(history, weather=weather) as operator:
            operator.start()
            assert operator.process is not None
            await asyncio.to_thread(operator.process.join, 60)
            assert operator.process.exitcode == 1, operator.log.read_text()

    in_world(control_plane.kubeconfig, tmp_path, story)
