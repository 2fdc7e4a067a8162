"""The keyed queue and its workers, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
from runyard.control.work_queue import LAST_BACKOFF_S, RESYNC_S, SHORTEST_RESYNC, Backoff, Queue, Workers

from tests.virtual_time import run_in_virtual_time

Reconcile = Callable[[str], Awaitable[float | None]]


async def always_open() -> None:
    """A gate that lets everything through."""


async def run_for(workers: Workers[str], seconds: float) -> None:
    task = asyncio.create_task(workers.run())
    await asyncio.sleep(seconds)  # virtual seconds: the clock jumps
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def now_s() -> float:
    return asyncio.get_running_loop().time()


def start_times_s(results: list[float | Exception | None], seconds: float) -> list[float]:
    """When a key added at 0 was reconciled, if the n-th pass gives the n-th result, and the last for ever."""
    times: list[float] = []

    async def reconcile(_: str) -> float | None:
        result = results[min(len(times), len(results) - 1)]
        times.append(now_s())
        if isinstance(result, Exception):
            raise result
        return result

    async def main() -> None:
        workers: Workers[str] = Workers(reconcile, gate=always_open, backoff=Backoff(jitter=lambda: 1.0))
        workers.queue.add("a")
        await run_for(workers, seconds)

    run_in_virtual_time(main())
    return times


def test_a_key_added_twice_is_worked_on_once() -> None:
    async def main() -> int:
        queue: Queue[str] = Queue()
        queue.add("a")
        queue.add("a")
        return len(queue)

    assert run_in_virtual_time(main()) == 1


def test_a_key_added_while_in_work_is_worked_on_again_but_never_by_two_workers() -> None:
    spans: list[tuple[float, float]] = []

    async def reconcile(_: str) -> float | None:
        start_s = now_s()
        await asyncio.sleep(10)
        spans.append((start_s, now_s()))
        return None

    async def main() -> None:
        workers: Workers[str] = Workers(reconcile, gate=always_open, num_workers=4)
        workers.queue.add("a")
        asyncio.get_running_loop().call_later(5, workers.queue.add, "a")
        asyncio.get_running_loop().call_later(6, workers.queue.add, "a")
        await run_for(workers, 100)

    run_in_virtual_time(main())
    assert spans == [(0, 10), (10, 20)]


def test_different_keys_are_worked_on_at_the_same_time_up_to_the_number_of_workers() -> None:
    started: list[tuple[str, float]] = []

    async def reconcile(key: str) -> float | None:
        started.append((key, now_s()))
        await asyncio.sleep(10)
        return None

    async def main() -> None:
        workers: Workers[str] = Workers(reconcile, gate=always_open, num_workers=2)
        for key in "abc":
            workers.queue.add(key)
        await run_for(workers, 100)

    run_in_virtual_time(main())
    assert started == [("a", 0), ("b", 0), ("c", 10)]


def test_the_earliest_of_several_timers_counts() -> None:
    async def main() -> list[float]:
        queue: Queue[str] = Queue()
        times = []
        for delay_s in (30, 10, 20):
            queue.add_after("a", delay_s)
        await queue.take()
        times.append(now_s())
        queue.done("a")
        queue.add_after("a", 100)
        await queue.take()
        times.append(now_s())
        return times

    assert run_in_virtual_time(main()) == [10, 110]


def test_an_event_brings_a_key_forward_and_its_timer_falls_away() -> None:
    async def main() -> tuple[float, int]:
        queue: Queue[str] = Queue()
        queue.add_after("a", 10)
        queue.add("a")
        key = await queue.take()
        taken_s = now_s()
        queue.done(key)
        await asyncio.sleep(50)
        return taken_s, len(queue)

    assert run_in_virtual_time(main()) == (0, 0)


def test_failures_back_off_from_one_second_doubling_to_five_minutes() -> None:
    times = start_times_s([ValueError("broken")], seconds=1000)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == [1, 2, 4, 8, 16, 32, 64, 128, 256, LAST_BACKOFF_S]


def test_a_success_resets_the_back_off() -> None:
    times = start_times_s([ValueError("1"), ValueError("2"), 10.0, ValueError("3"), 1000.0], seconds=20)
    assert times == [0, 1, 3, 13, 14]


def test_back_off_is_jittered_within_its_bounds() -> None:
    backoff: Backoff[int] = Backoff()
    first_delays_s = {backoff.next_s(key) for key in range(200)}
    assert len(first_delays_s) > 100
    assert all(0.8 <= delay_s <= 1.2 for delay_s in first_delays_s)
    assert max(backoff.next_s(0) for _ in range(50)) <= LAST_BACKOFF_S


@pytest.mark.parametrize("asked_s", [1000.0, float("inf")])
def test_a_key_is_looked_at_again_after_the_resync_period_at_the_latest(asked_s: float) -> None:
    times = start_times_s([asked_s], seconds=RESYNC_S + 1)
    assert len(times) == 2
    assert SHORTEST_RESYNC * RESYNC_S <= times[1] <= RESYNC_S


def test_a_time_that_has_passed_already_means_now() -> None:
    assert start_times_s([-5.0, None], seconds=100) == [0, 0]


def test_a_key_that_is_gone_is_never_looked_at_again() -> None:
    assert start_times_s([None], seconds=10_000) == [0]


def test_one_keys_failure_does_not_stop_the_others() -> None:
    done: list[str] = []

    async def reconcile(key: str) -> float | None:
        if key == "bad":
            raise RuntimeError("a defect")
        done.append(key)
        return None

    async def main() -> None:
        workers: Workers[str] = Workers(reconcile, gate=always_open, num_workers=1)
        for key in ("bad", "good"):
            workers.queue.add(key)
        await run_for(workers, 5)

    run_in_virtual_time(main())
    assert done == ["good"]


def test_nothing_is_worked_on_while_the_gate_is_shut() -> None:
    times: list[float] = []

    async def reconcile(_: str) -> float | None:
        times.append(now_s())
        return None

    async def main() -> None:
        leading = asyncio.Event()

        async def wait_until_leader() -> None:
            await leading.wait()

        workers: Workers[str] = Workers(reconcile, gate=wait_until_leader)
        workers.queue.add("a")
        asyncio.get_running_loop().call_later(40, leading.set)
        await run_for(workers, 100)

    run_in_virtual_time(main())
    assert times == [40]


def test_expected_errors_are_logged_without_a_traceback_and_others_with_one(caplog: pytest.LogCaptureFixture) -> None:
    async def reconcile(key: str) -> float | None:
        raise (ConnectionError if key == "expected" else KeyError)(key)

    async def main() -> None:
        workers: Workers[str] = Workers(reconcile, gate=always_open, expected_errors=(ConnectionError,))
        for key in ("expected", "defect"):
            workers.queue.add(key)
        await run_for(workers, 0.5)

    run_in_virtual_time(main())
    traces = {record.args[0]: bool(record.exc_info) for record in caplog.records if isinstance(record.args, tuple)}
    assert traces == {"expected": False, "defect": True}
