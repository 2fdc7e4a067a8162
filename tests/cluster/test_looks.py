"""What a look at a run reads, on the real API server: most change nothing, and read nothing."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest
from runyard.api.trainingrun import API_VERSION
from runyard.cluster.kueue import KueueReader
from runyard.cluster.progress import ProgressReader
from runyard.cluster.watch_cache import COUNTS_FOR_S, WatchCache
from runyard.control.reconcile import Reconciler
from runyard.control.wakeups import Wakeups
from runyard.decide.values import Manifest
from runyard.serving.metrics import Metrics

from tests.builders import SETTINGS
from tests.cluster.lab import Lab, in_lab

pytestmark = pytest.mark.usefixtures("as_administrator")


class Looks:
    """A reconciler whose requests are counted, and whose watch says what the test lets it say."""

    def __init__(self, lab: Lab, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab = lab
        self.now_s = 0.0
        self.requests: Counter[str] = Counter()
        self.cache = WatchCache(lambda: self.now_s)
        request = lab.kube.request

        async def count(method: str, path: str, **options: object) -> Manifest:
            self.requests[f"{method} {path.rpartition('/namespaces/')[2].split('/')[1]}"] += 1
            return await request(method, path, **options)  # type: ignore[arg-type]  # passed on as they came

        monkeypatch.setattr(lab.kube, "request", count)
        self._reconcile = Reconciler(
            cluster=lab.cluster,
            progress=ProgressReader(session, 5, lambda: self.now_s),
            kueue=KueueReader(lab.kube, lambda: self.now_s),
            cache=self.cache,
            metrics=Metrics(),
            wakeups=Wakeups(lambda _: None),
            budgets=None,
            settings=SETTINGS,
            instance="test",
        )

    async def look(self) -> Counter[str]:
        """Look once, and return what it asks for."""
        self.requests.clear()
        await self._reconcile(self.lab.key)
        return Counter(self.requests)

    async def watch(self) -> None:
        """Have the watch say what there is."""
        for kind, path in (("Job", self.lab.path("jobs", "batch/v1")), ("Pod", self.lab.path("pods"))):
            for each in (await self.lab.kube.get(path))["items"]:
                self.cache.note_owned({"kind": kind, **each}, is_gone=False)
        runs = await self.lab.kube.get(self.lab.path("trainingruns", API_VERSION))
        self.cache.note_run(runs["items"][0], is_gone=False)

    async def settle(self) -> None:
        """Look until nothing changes any more: no node takes the pod, which is soon said."""
        async with asyncio.timeout(60):
            while await self.look():
                await self.watch()


def test_a_look_that_changes_nothing_reads_nothing_and_all_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(lab: Lab) -> None:
        async with aiohttp.ClientSession() as session:
            looks = Looks(lab, session, monkeypatch)
            wanted = ("GET trainingruns", "POST configmaps", "POST jobs", "PATCH trainingruns", "POST events")
            assert await looks.look() == dict.fromkeys(wanted, 1)
            # the watch is behind: it looks as if the Job were missing, and is not made again
            assert (await looks.look())["POST jobs"] == 0
            await looks.settle()
            looks.now_s += COUNTS_FOR_S + 1
            assert await looks.look() == {"GET trainingruns": 1, "GET jobs": 1, "GET pods": 1}
            assert not await looks.look()

    in_lab(story)


def test_that_a_job_is_gone_is_found_although_no_watch_has_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(lab: Lab) -> None:
        async with aiohttp.ClientSession() as session:
            looks = Looks(lab, session, monkeypatch)
            await looks.settle()
            before = await lab.find("Job", "cpt-prepare")
            path = f"{lab.path('jobs', 'batch/v1')}/cpt-prepare"
            await lab.kube.request("DELETE", path, body={"propagationPolicy": "Background"})
            assert not await looks.look()
            looks.now_s += COUNTS_FOR_S + 1
            assert (await looks.look())["POST jobs"] == 1
            assert (await lab.find("Job", "cpt-prepare"))["metadata"]["uid"] != before["metadata"]["uid"]

    in_lab(story)
