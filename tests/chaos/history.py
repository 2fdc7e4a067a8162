"""One history: a run with its script in its own namespace, an operator behind a proxy, and the record of it all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from tests.chaos.api import Api, open_api
from tests.chaos.kubelet import Kubelet, register_node
from tests.chaos.operators import Operator
from tests.chaos.proxy import Weather, Write, fair_weather, serve_proxy
from tests.chaos.record import Record, holds
from tests.chaos.script import Script, foresee
from tests.forks import wait_for_fork_server

RUN = "cpt"
DEADLINE_S = 300
COLLECTIONS = {"trainingruns": "/apis/runyard.dev/v1alpha1", "jobs": "/apis/batch/v1", "pods": "/api/v1"}


@dataclass
class History:
    """A run in a namespace, with its operator and the record of what is stored. Use `World.open_history`."""

    api: Api
    namespace: str
    script: Script
    record: Record
    kubelet: Kubelet = field(init=False)

    def __post_init__(self) -> None:
        self.kubelet = Kubelet(self.api, self.namespace, self.script, self.suspend_and_resume, self.wait_until_known)

    @property
    def path(self) -> str:
        return f"{COLLECTIONS['trainingruns']}/namespaces/{self.namespace}/trainingruns"

    async def create_run(self) -> None:
        kind = {"apiVersion": "runyard.dev/v1alpha1", "kind": "TrainingRun"}
        await self.api.create(self.path, kind | {"metadata": {"name": RUN}, "spec": self.script.build_spec()})

    async def suspend(self, value: bool) -> None:
        await self.api.patch(f"{self.path}/{RUN}", {"spec": {"suspend": value}})

    async def suspend_and_resume(self) -> None:
        await self.suspend(True)
        await self.record.wait_for(lambda record: holds(record.status, "Suspended"), "suspended", DEADLINE_S)
        await self.suspend(False)

    async def wait_until_known(self, attempt: int) -> None:
        await self.record.wait_for(
            lambda record: record.status.get("attempt", 0) >= attempt, f"status of attempt {attempt}", DEADLINE_S
        )

    async def catch_up(self) -> None:
        """Wait until each watch, however late it is, has delivered what is stored by now."""
        for plural, root in COLLECTIONS.items():
            stored = (await self.api.get(f"{root}/namespaces/{self.namespace}/{plural}"))["items"]
            await self.record.wait_for(
                lambda record, stored=stored: all(map(record.has_seen, stored)),  # type: ignore[misc]
                f"told of all {plural}",
                DEADLINE_S,
            )

    async def arrive(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait for the run's end, and hold everything that was stored against the promises and the oracle."""
        await self.record.wait_for(Record.is_over, "over", deadline_s)
        await self.catch_up()
        await self.record.wait_for(Record.is_over, "over still", deadline_s)
        self.record.check()
        self.record.check_outcome(foresee(self.script))


@dataclass
class World:
    """The API server with a node, and the histories that go on there. Use `open_world`."""

    api: Api
    folder: Path
    _histories: dict[str, History] = field(default_factory=dict)

    @asynccontextmanager
    async def open_history(self, script: Script) -> AsyncIterator[History]:
        """Make a namespace for a run, and delete it afterwards."""
        namespace = f"chaos-{uuid4().hex[:8]}"
        history = History(self.api, namespace, script, Record())
        self._histories[namespace] = history
        await self.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        try:
            yield history
        finally:
            del self._histories[namespace]
            await history.kubelet.stop()
            await self.api.request("DELETE", f"/api/v1/namespaces/{namespace}")

    @asynccontextmanager
    async def open_operator(
        self, history: History, name: str = "a", weather: Weather = fair_weather
    ) -> AsyncIterator[Operator]:
        """Make an operator for that namespace, not started yet, with a proxy of its own."""
        async with serve_proxy(self.api, name) as proxy:
            proxy.weather = weather
            operator = Operator(name, history.namespace, proxy, self.folder)
            try:
                yield operator
            finally:
                await asyncio.to_thread(operator.end)

    async def dispatch(self, plural: str, since: str) -> None:
        """Hand every event of a collection to its history."""
        async for kind, found in self.api.watch(f"{COLLECTIONS[plural]}/{plural}", since):
            history = self._histories.get(found["metadata"]["namespace"])
            if history is not None:
                if plural == "pods":
                    history.kubelet.see(kind, found)
                await history.record.see(plural, kind, found)


@asynccontextmanager
async def open_world(api: Api, folder: Path) -> AsyncIterator[World]:
    """Watch everything, and play a node, until the block ends.

    Where the watches begin is settled before anything happens: however late one is, it misses nothing.
    """
    world = World(api, folder)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(register_node(api))
        since = {plural: await api.read_version(f"{root}/{plural}") for plural, root in COLLECTIONS.items()}
        watches = [asyncio.create_task(world.dispatch(plural, since[plural])) for plural in COLLECTIONS]
        try:
            yield world
        finally:
            for watch in watches:
                watch.cancel()
            for outcome in await asyncio.gather(*watches, return_exceptions=True):
                if isinstance(outcome, Exception):
                    raise outcome


def in_world(kubeconfig: Path, folder: Path, story: Callable[[World], Awaitable[None]]) -> None:
    """Run a story there; the operators' logs go to `folder`."""

    async def main() -> None:
        async with open_api(kubeconfig) as api, open_world(api, folder) as world:
            await story(world)

    wait_for_fork_server()
    asyncio.run(main())


@asynccontextmanager
async def kept_running(operator: Operator) -> AsyncIterator[None]:
    """Start it now and whenever it ends, as a Deployment does, until the block ends."""

    async def keep() -> None:
        while True:
            if not operator.is_running:
                operator.start()
            await asyncio.sleep(0.05)

    keeping = asyncio.create_task(keep())
    try:
        yield
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping


def after_write(number: int, act: Callable[[], None]) -> Callable[[Write], None]:
    """Return an `on_commit` that does something at the n-th write that is no renewal of a lease."""
    seen = [0]

    def count(write: Write) -> None:
        seen[0] += not write.call.is_lease
        if seen[0] == number and not write.call.is_lease:
            act()

    return count
