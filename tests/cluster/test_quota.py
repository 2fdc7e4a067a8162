"""Gangs and ResourceQuotas on a real control plane: its Job and quota controllers act, the test plays the kubelets."""

from __future__ import annotations

import asyncio

import pytest
from runyard.api.trainingrun import API_VERSION
from runyard.cluster.client import connect

from tests.cluster.gangs import GPUS_OF_A_POD, PODS_OF_A_RUN, GangWatcher
from tests.cluster.operator_process import Namespace, wait_for_leader

pytestmark = pytest.mark.usefixtures("as_administrator")


async def run_all(namespace: Namespace, num_runs: int, num_gpus: int) -> None:
    """Run so many over so many GPUs: they finish in the order of their age, as many at once as fit, none in part."""
    names = [f"r{number:02}" for number in range(num_runs)]
    fit = num_gpus // (PODS_OF_A_RUN * GPUS_OF_A_POD)
    async with connect() as kube:
        watcher = GangWatcher(kube, namespace.name)
        await watcher.limit("gpus", {"requests.nvidia.com/gpu": "0"})
        for name in names:
            await watcher.submit(name)

        async def all_prepared() -> bool:
            await watcher.end("prepare")
            phases = [(await watcher.status(name)).get("phase") for name in names]
            return all(phase == "Queued" for phase in phases)

        await watcher.wait_for(all_prepared, "every run waits")
        await watcher.raise_limit("gpus", {"requests.nvidia.com/gpu": str(num_gpus)})
        started: set[str] = set()
        for _ in names:

            async def as_many_as_fit() -> bool:
                gangs = await watcher.live_gangs()
                assert sum(gangs.values()) <= num_gpus
                started.update(gangs)
                left = num_runs - len(started) + len(gangs)
                return list(gangs.values()) == [PODS_OF_A_RUN] * min(fit, left)

            await watcher.wait_for(as_many_as_fit, "as many as fit")
            assert started == set(names[: len(started)]), "not in the order of their age"
            first = min(await watcher.live_gangs())
            await watcher.end("train", first)
            seen = first

            async def is_done() -> bool:
                return (await watcher.status(seen)).get("phase") == "Succeeded"  # noqa: B023 - used in this turn only

            await watcher.wait_for(is_done, f"{first} has succeeded")
        assert started == set(names)
        await watcher.assert_no_gang_was_refused_a_pod()


def test_six_runs_over_four_gpus_all_finish_and_no_gang_ever_starts_in_part(namespace: Namespace) -> None:
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(run_all(namespace, num_runs=6, num_gpus=4))


@pytest.mark.full
def test_twenty_runs_over_eight_gpus_all_finish_and_no_gang_ever_starts_in_part(namespace: Namespace) -> None:
    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(run_all(namespace, num_runs=20, num_gpus=8))


def test_a_run_that_waits_says_for_what_and_those_behind_it_wait_too_until_it_is_gone(namespace: Namespace) -> None:
    async def story() -> None:
        async with connect() as kube:
            watcher = GangWatcher(kube, namespace.name)
            await watcher.limit("gpus", {"requests.nvidia.com/gpu": "4"})

            async def phase_is(name: str, phase: str) -> bool:
                await watcher.end("prepare")
                return (await watcher.status(name)).get("phase") == phase

            for name, nodes, phase in (("a", 2, "Starting"), ("b", 4, "Queued"), ("c", 1, "Queued")):
                await watcher.submit(name, nodes=nodes)
                await watcher.wait_for(lambda name=name, phase=phase: phase_is(name, phase), phase)  # type: ignore[misc]
            assert (await watcher.status("b"))["queue"] == {
                "position": 0,
                "message": f"needs 4 nvidia.com/gpu, {namespace.name} has 2 of 4 free",
            }
            third = await watcher.status("c")
            assert third["queue"]["message"].endswith("has 2 of 4 free; 1 run ahead")
            admitted = next(condition for condition in third["conditions"] if condition["type"] == "Admitted")
            assert (admitted["status"], admitted["reason"]) == ("False", "Queued")
            await kube.request("DELETE", watcher.path("trainingruns/b", API_VERSION))
            await watcher.wait_for(lambda: phase_is("c", "Starting"), "c starts")
            assert "queue" not in await watcher.status("c")

    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(story())
