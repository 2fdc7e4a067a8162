"""The operator's I/O against a real API server: what it reads, what it writes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from runyard.api.trainingrun import API_VERSION, LABEL_RUN_UID, Condition, LastFailure, Phase, TrainingRunStatus
from runyard.cluster.client import MERGE_PATCH, ApiError, Kube, connect
from runyard.cluster.events import record_event, subject_of
from runyard.cluster.progress import ProgressReader
from runyard.cluster.runs import Cluster, NotLeaderError
from runyard.decide.values import Create, Delete, Event, Key, Manifest
from runyard_trainer.contract.reports import PROGRESS_PORT

from tests.cluster.lab import BODIES, NOW, Lab, in_lab
from tests.cluster.local_cluster import Cluster as ControlPlane
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("as_administrator")


async def try_to(action: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await action
    return caught.value


# ------------------------------------------------------------------------------------------------- reading and applying


def test_a_run_that_is_not_there_is_none() -> None:
    async def story(lab: Lab) -> None:
        assert await lab.cluster.read_run(Key(lab.key.namespace, "nobody")) is None
        assert (await lab.read_run()).spec is not None

    in_lab(story)


def test_what_was_created_is_observed_and_what_is_anothers_is_not() -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        await lab.create(run, lab.build("Job", "cpt-job", run.uid))
        mislabelled = lab.build("Job", "stray", run.uid)
        del mislabelled["metadata"]["ownerReferences"]
        await lab.kube.request("POST", lab.path("jobs", "batch/v1"), body=mislabelled)
        observed = await lab.cluster.observe(run)
        assert [job["metadata"]["name"] for job in observed.jobs] == ["cpt-job"]
        assert observed.jobs[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "none"

    in_lab(story)


@pytest.mark.parametrize("kind", list(BODIES))
def test_creating_twice_makes_one_object_and_is_no_error(kind: str) -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        await lab.create(run, lab.build(kind, "cpt-one", run.uid))
        uid = (await lab.find(kind, "cpt-one"))["metadata"]["uid"]
        await lab.create(run, lab.build(kind, "cpt-one", run.uid))
        assert (await lab.find(kind, "cpt-one"))["metadata"]["uid"] == uid

    in_lab(story)


@pytest.mark.parametrize("kind", list(BODIES))
def test_a_name_that_belongs_to_another_owner_is_a_conflict_and_the_object_stays_as_it_is(kind: str) -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        foreign = lab.build(kind, "cpt-taken", run.uid)
        del foreign["metadata"]["ownerReferences"]
        await lab.create(run, foreign)
        applied = await lab.cluster.apply(run, [Create(lab.build(kind, "cpt-taken", run.uid))])
        assert (applied.conflicts, applied.errors) == ((f"{kind}/cpt-taken",), ())
        assert "ownerReferences" not in (await lab.find(kind, "cpt-taken"))["metadata"]

    in_lab(story)


def test_applying_stops_at_the_first_error_and_says_what_could_not_be_done() -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        broken = lab.build("Job", "cpt-prepare", run.uid)
        broken["spec"]["template"]["spec"]["restartPolicy"] = "Always"
        applied = await lab.cluster.apply(run, [Create(broken), Create(lab.build("ConfigMap", "later", run.uid))])
        assert len(applied.errors) == 1
        assert applied.errors[0].startswith("cannot create Job cpt-prepare: ")
        assert "restartPolicy" in applied.errors[0]
        assert (await try_to(lab.find("ConfigMap", "later"))).reason == "NotFound"

    in_lab(story)


def test_a_quota_that_is_used_up_is_an_error_with_its_name_but_for_what_is_there(control_plane: ControlPlane) -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        await lab.create(run, lab.build("Service", "cpt-ranks", run.uid))
        quota = {"metadata": {"name": "no-maps"}, "spec": {"hard": {"count/services": "1"}}}
        await lab.kube.request("POST", lab.path("resourcequotas"), body=quota)
        probe = ["create", "service", "clusterip", "probe", "--clusterip=None", "--dry-run=server"]

        def holds() -> bool:
            tried = control_plane.kubectl(*probe, f"--namespace={lab.key.namespace}", check=False)
            return "no-maps" in tried.stderr

        await asyncio.to_thread(wait_until, holds, 60)  # a quota holds once the API server has seen it
        await lab.create(run, lab.build("Service", "cpt-ranks", run.uid))
        applied = await lab.cluster.apply(run, [Create(lab.build("Service", "cpt-more", run.uid))])
        assert "no-maps" in applied.errors[0]

    in_lab(story)


def test_a_pod_that_is_made_or_goes_while_the_namespace_is_read_is_never_taken_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()

        async def create_pod(name: str, cpu: str) -> None:
            container = {"name": "main", "image": "none", "resources": {"requests": {"cpu": cpu}}}
            metadata = {"name": name, "labels": {LABEL_RUN_UID: run.uid}}
            spec = {"automountServiceAccountToken": False, "containers": [container]}
            await lab.kube.request("POST", lab.path("pods"), body={"metadata": metadata, "spec": spec})

        await wait_until_there(lab, "serviceaccounts/default")
        quota = {"metadata": {"name": "cpus"}, "spec": {"hard": {"requests.cpu": "10"}}}
        await lab.kube.request("POST", lab.path("resourcequotas"), body=quota)
        await create_pod("goes", "1")
        get, looks = lab.kube.get, itertools.count()

        async def get_while_pods_change(path: str, **parameters: str) -> Manifest:
            answer = await get(path, **parameters)
            if path.endswith("/pods") and next(looks) == 0:
                await create_pod("comes", "2")
                await lab.kube.request("DELETE", lab.path("pods/goes"), body={"gracePeriodSeconds": 0})
            return answer

        monkeypatch.setattr(lab.kube, "get", get_while_pods_change)
        seen = await lab.cluster.observe_namespace(run)
        assert int(seen.quotas[0]["status"]["used"]["requests.cpu"]) >= 2, "what the pod that came takes is seen"
        assert seen.pods == (), "and neither the pod that went nor the one that came is taken for one that is in it"

    in_lab(story)


async def wait_until_there(lab: Lab, name: str) -> None:
    """Wait until the control plane's own controllers have made it."""
    async with asyncio.timeout(60):
        while True:
            with suppress(ApiError):
                await lab.kube.get(lab.path(name))
                return
            await asyncio.sleep(0.1)


def test_a_delete_made_from_an_old_view_is_refused_and_one_from_the_present_view_works() -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        await lab.create(run, lab.build("Job", "cpt-a1", run.uid))
        path = lab.path("jobs/cpt-a1", "batch/v1")
        seen = (await lab.kube.get(path))["metadata"]
        touched = {"metadata": {"annotations": {"touched": "yes"}}}
        await lab.kube.request("PATCH", path, body=touched, content_type="application/merge-patch+json")
        stale = Delete("Job", "cpt-a1", seen["uid"], seen["resourceVersion"])
        assert (await try_to(lab.cluster.apply(run, [stale]))).reason == "Conflict"
        now = (await lab.kube.get(path))["metadata"]
        other = Delete("Job", "cpt-a1", "00000000-0000-0000-0000-000000000000", now["resourceVersion"])
        assert (await try_to(lab.cluster.apply(run, [other]))).reason == "Conflict"
        present = Delete("Job", "cpt-a1", now["uid"], now["resourceVersion"])
        assert not (await lab.cluster.apply(run, [present])).failed
        assert not (await lab.cluster.apply(run, [present])).failed, "deleting what is gone is no error"
        assert (await try_to(lab.kube.get(path))).status == 404

    in_lab(story)


def test_a_run_is_deleted_as_it_was_seen_and_not_one_that_was_changed_meanwhile() -> None:
    async def story(lab: Lab) -> None:
        seen = await lab.read_run()
        patch = {"metadata": {"labels": {"kept": "yes"}}}
        await lab.kube.request("PATCH", f"{lab.path('trainingruns', API_VERSION)}/cpt", body=patch,
                               content_type=MERGE_PATCH)  # fmt: skip
        delete = Delete("TrainingRun", "cpt", seen.uid, seen.resource_version)
        assert (await try_to(lab.cluster.apply(seen, [delete]))).reason == "Conflict"
        run = await lab.read_run()
        await lab.cluster.apply(run, [Delete("TrainingRun", "cpt", run.uid, run.resource_version)])
        assert await lab.cluster.read_run(lab.key) is None

    in_lab(story)


def test_a_replica_that_does_not_lead_writes_nothing() -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        with pytest.raises(NotLeaderError):
            await lab.cluster.apply(run, [Create(lab.build("ConfigMap", "late", run.uid))])
        with pytest.raises(NotLeaderError):
            await lab.cluster.patch_status(run, TrainingRunStatus(attempt=1, conditions=[]))
        with pytest.raises(NotLeaderError):
            await record_event(lab.cluster, subject_of(run), "", Event("Normal", "Late", ""), "pod", NOW)
        assert (await try_to(lab.find("ConfigMap", "late"))).reason == "NotFound"
        assert (await lab.read_run()).resource_version == run.resource_version

    in_lab(story, leads=lambda: False)


# --------------------------------------------------------------------------------------------------------------- status


def build_status(**changes: Any) -> TrainingRunStatus:
    ready = Condition(type="Ready", status="False", reason="New", last_transition_time="2026-01-31T12:00:00Z")
    status = TrainingRunStatus(observed_generation=1, phase=Phase.PREPARING, conditions=[ready], attempt=1)
    return status.model_copy(update=changes)


def test_the_status_is_written_once_and_not_again_while_it_stays_the_same() -> None:
    async def story(lab: Lab) -> None:
        assert await lab.cluster.patch_status(await lab.read_run(), build_status())
        written = await lab.read_run()
        assert written.status == build_status()
        assert not await lab.cluster.patch_status(written, build_status())
        assert (await lab.read_run()).resource_version == written.resource_version

    in_lab(story)


def test_fields_that_are_no_longer_set_vanish_from_the_status() -> None:
    async def story(lab: Lab) -> None:
        failure = LastFailure(reason="OOMKilled", rank=1)
        before = build_status(last_failure=failure, resolved={"microBatch": "4", "precision": "bf16"})
        await lab.cluster.patch_status(await lab.read_run(), before)
        await lab.cluster.patch_status(await lab.read_run(), build_status(resolved={"precision": "bf16"}))
        stored = (await lab.kube.get(lab.path("trainingruns/cpt", API_VERSION)))["status"]
        assert "lastFailure" not in stored
        assert stored["resolved"] == {"precision": "bf16"}

    in_lab(story)


def test_a_status_made_from_an_old_view_of_the_run_is_refused() -> None:
    async def story(lab: Lab) -> None:
        old = await lab.read_run()
        await lab.cluster.patch_status(old, build_status(attempt=2))
        assert (await try_to(lab.cluster.patch_status(old, build_status(attempt=1)))).reason == "Conflict"
        assert (await lab.read_run()).status.attempt == 2

    in_lab(story)


def test_an_event_is_recorded_once_however_often_it_is_told() -> None:
    async def story(lab: Lab) -> None:
        run = await lab.read_run()
        for _ in range(3):
            event = Event("Warning", "AttemptFailed", "out of memory")
            await record_event(lab.cluster, subject_of(run), "attempt 1", event, "op", NOW)
        event = Event("Normal", "AttemptStarted", "attempt 2")
        await record_event(lab.cluster, subject_of(run), "attempt 2", event, "op", NOW)
        events = (await lab.kube.get(lab.path("events", "events.k8s.io/v1")))["items"]
        assert sorted(event["reason"] for event in events) == ["AttemptFailed", "AttemptStarted"]
        assert {event["regarding"]["uid"] for event in events} == {run.uid}

    in_lab(story)


# -------------------------------------------------------------------------------------------------------- bad weather


@dataclass
class BadWeather:
    """A proxy before the API server that answers the first requests as told, and passes the others on."""

    kube: Kube
    answers: list[Callable[[], web.Response]]
    passed: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.answers:
            return self.answers.pop(0)()
        self.passed += 1
        body = await request.json() if request.can_read_body else None
        try:
            answer = await self.kube.request(
                request.method, request.path, body=body, params=request.query, content_type=request.content_type
            )
        except ApiError as error:
            return web.json_response({"reason": error.reason, "message": str(error)}, status=error.status)
        return web.json_response(answer)


def drop_connection() -> web.Response:
    raise ConnectionResetError("the proxy hangs up")


def busy() -> web.Response:
    return web.json_response({"reason": "TooManyRequests"}, status=429, headers={"Retry-After": "1"})


def unavailable() -> web.Response:
    return web.Response(status=503, text="etcd has no leader")


def login_page() -> web.Response:
    return web.Response(text="<html>please log in</html>", content_type="text/html")


@asynccontextmanager
async def through(weather: BadWeather, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", weather.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    kubeconfig = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
    try:
        async with connect() as kube:
            yield kube
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("trouble", [busy, unavailable, drop_connection, login_page])
def test_writes_are_repeated_through_passing_trouble_and_happen_once(
    trouble: Callable[[], web.Response], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(lab: Lab) -> None:
        weather = BadWeather(lab.kube, [trouble])
        async with through(weather, tmp_path, monkeypatch) as kube:
            run = await lab.read_run()
            cluster = Cluster(kube, lambda: True)
            assert not (await cluster.apply(run, [Create(lab.build("Job", "cpt-a1", run.uid))])).failed
            assert weather.passed == 1
            weather.answers.append(trouble)
            assert await cluster.patch_status(run, build_status())
        assert (await lab.read_run()).status == build_status()

    in_lab(story)


def test_trouble_that_stays_is_raised_after_a_few_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(lab: Lab) -> None:
        weather = BadWeather(lab.kube, [unavailable] * 10)
        async with through(weather, tmp_path, monkeypatch) as kube:
            error = await try_to(Cluster(kube, lambda: True).read_run(lab.key))
            assert (error.status, str(error)) == (503, "etcd has no leader")
            assert len(weather.answers) == 6

    in_lab(story)


def test_leadership_lost_between_two_tries_of_a_write_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(lab: Lab) -> None:
        leads = [True]

        def trouble() -> web.Response:
            leads[0] = False
            return unavailable()

        weather = BadWeather(lab.kube, [trouble])
        async with through(weather, tmp_path, monkeypatch) as kube:
            run = await lab.read_run()
            with pytest.raises(NotLeaderError):
                await Cluster(kube, lambda: leads[0]).patch_status(run, build_status())
        assert weather.passed == 0

    in_lab(story)


# ------------------------------------------------------------------------------------------------------------- progress

RANK_0_ADDRESSES = (f"127.0.13.{number}" for number in itertools.count(1))


@asynccontextmanager
async def rank_0(answer: Callable[[], Awaitable[str]]) -> AsyncIterator[dict[str, Any]]:
    """Run a server as rank 0 does, at an address of its own; yield its pod."""
    address = next(RANK_0_ADDRESSES)

    async def progress(_: web.Request) -> web.Response:
        return web.Response(text=await answer(), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/progress", progress)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, PROGRESS_PORT).start()
    labels = {
        "runyard.dev/role": "train",
        "runyard.dev/attempt": "1",
        "batch.kubernetes.io/job-completion-index": "0",
    }
    try:
        yield {"metadata": {"uid": address, "labels": labels}, "status": {"phase": "Running", "podIP": address}}
    finally:
        await runner.cleanup()


def test_progress_is_asked_once_an_interval_and_again_when_it_is_over() -> None:
    steps = itertools.count(1)
    times = iter([0.0, 0.0, 4.9, 4.9, 5.1, 5.1])

    async def answer() -> str:
        return f'{{"stage": "training", "attempt": 1, "step": {next(steps)}, "lastHeartbeatTime": "t"}}'

    async def main() -> list[int | None]:
        clock_s = [0.0]
        async with rank_0(answer) as pod, aiohttp.ClientSession() as session:
            reader = ProgressReader(session, 5.0, lambda: clock_s[0])
            seen: list[int | None] = []
            for clock_s[0] in times:
                progress = await reader.read(Key("lab", "cpt"), [pod])
                seen.append(progress.step if progress else None)
        return seen

    assert asyncio.run(main()) == [1, 1, 1, 1, 2, 2]


async def _hang() -> str:
    await asyncio.sleep(60)
    return ""


async def _garbage() -> str:
    return "<html>not a rank</html>"


@pytest.mark.parametrize("answer", [_hang, _garbage])
def test_a_rank_0_that_hangs_or_talks_nonsense_is_no_progress_and_no_error(
    answer: Callable[[], Awaitable[str]],
) -> None:
    async def main() -> tuple[object, float | None]:
        async with rank_0(answer) as pod, aiohttp.ClientSession() as session:
            loop = asyncio.get_running_loop()
            reader = ProgressReader(session, 5.0, loop.time)
            started_s = loop.time()
            progress = await reader.read(Key("lab", "cpt"), [pod])
            assert loop.time() - started_s < 4
            return progress, reader.due_in_s(Key("lab", "cpt"))

    progress, due_in_s = asyncio.run(main())
    assert progress is None
    assert due_in_s is not None


def test_a_run_without_a_running_rank_0_is_not_asked() -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            reader = ProgressReader(session, 5.0, lambda: 0.0)
            assert await reader.read(Key("lab", "cpt"), []) is None
            assert reader.due_in_s(Key("lab", "cpt")) is None

    asyncio.run(main())
