"""Runs that queue with Kueue: a real one (`full`), and on a real API server one whose part the test plays."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from runyard.cluster.client import MERGE_PATCH, connect

from tests.cluster import runs
from tests.cluster.gangs import ENDED, GangWatcher
from tests.cluster.kueue import Kueue, build_queue, install, make_multikueue_queue, make_queues, run_kueue
from tests.cluster.local_cluster import Cluster, bring_up
from tests.cluster.operator_process import Namespace, wait_for_leader
from tests.waiting import wait_until

NUM_STEPS = 1500


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Kueue]]:
    """Bring up room for two runs of two GPUs each, and quota for one."""
    folder = tmp_path_factory.mktemp("kueue")
    with bring_up("--nodes", "2", "--gpus-per-node", "2") as cluster, run_kueue(cluster, folder) as kueue:
        make_queues(cluster, gpus=2)
        yield cluster, kueue


def submit(cluster: Cluster, name: str, corpus: str, priority: str, steps: int = NUM_STEPS) -> None:
    queue = {"name": "gpus", "priorityClassName": priority}
    training = {"steps": steps, "sequenceLength": 64, "batchSequences": 4, "learningRate": 0.003}
    runs.apply(cluster, runs.manifest(name, corpus, queue=queue, training=training))


def place_of(cluster: Cluster, name: str) -> dict[str, Any]:
    return cluster.get_json("job", f"{name}-place")


def workload_of(cluster: Cluster, name: str) -> dict[str, Any]:
    uid = place_of(cluster, name)["metadata"]["uid"]
    items = cluster.get_json("workloads.kueue.x-k8s.io", "-l", f"kueue.x-k8s.io/job-uid={uid}")["items"]
    return dict(items[0])


def is_about(event: dict[str, Any], run: str) -> bool:
    return (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("TrainingRun", run)


def queue_message(seen: dict[str, Any]) -> str:
    return str((seen.get("queue") or {}).get("message", ""))


@pytest.mark.full
def test_kueue_holds_admits_preempts_and_resumes_runs_and_a_failure_does_not_cost_the_place(
    installed: tuple[Cluster, Kueue],
) -> None:
    cluster, _ = installed
    corpus = runs.upload_corpus(cluster, "corpora/kueue")

    submit(cluster, "first", corpus, "low")
    runs.wait_for_checkpoint(cluster, "first", 5)
    place = place_of(cluster, "first")
    assert place["spec"]["suspend"] is False
    job = cluster.get_json("job", "first-a1")
    assert job["spec"]["template"]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    wait_until(lambda: place_of(cluster, "first")["status"].get("ready") == 2, 30)

    # held, in Kueue's words
    submit(cluster, "second", corpus, "low", steps=20)
    seen = runs.wait_for(cluster, "second", lambda seen: "insufficient" in queue_message(seen), "Kueue's words")
    assert "nvidia.com/gpu" in seen["queue"]["message"]
    assert seen["phase"] == "Queued"

    # a failure: the next attempt keeps the place, though another run waits for it
    admitted = workload_of(cluster, "first")["metadata"]["uid"]
    runs.rank_processes("first")[1].send_signal(signal.SIGKILL)
    seen = runs.wait_for(
        cluster, "first", lambda seen: seen["attempt"] == 2 and seen["phase"] == "Running", "attempt 2"
    )
    assert seen["restarts"]["failures"] == 1
    assert workload_of(cluster, "first")["metadata"]["uid"] == admitted
    assert runs.status(cluster, "second")["phase"] == "Queued"
    assert runs.status(cluster, "second")["attempt"] == 0

    # preempted by a higher priority, which only Kueue knows, with a checkpoint
    submit(cluster, "urgent", corpus, "high", steps=20)
    seen = runs.wait_for(
        cluster, "first", lambda seen: seen["restarts"].get("preemptions") == 1, "a preemption", deadline_s=240
    )
    assert seen["endedAttempt"] == 2
    place = place_of(cluster, "urgent")
    assert place["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    assert "priorityClassName" not in place["spec"]["template"]["spec"]
    told = "Preempted for Job urgent-place at 2"
    seen = runs.wait_for(cluster, "first", lambda seen: told in queue_message(seen), "for whom it was preempted")
    known = seen["checkpoint"]["step"]
    assert seen["queue"]["message"].endswith(f": it goes on by itself from step {known} or later")
    assert runs.read_json(cluster, "out/first/head.json")["checkpoint"]["step"] >= known
    events = cluster.get_json("events")["items"]
    (said,) = [event["message"] for event in events if event["reason"] == "Preempted" and is_about(event, "first")]
    assert said.startswith("attempt 2 saves a checkpoint and stops: preempted for Job urgent-place; Kueue says: ")
    runs.wait_for_phase(cluster, "urgent", "Succeeded")

    # and resumed by itself when there is quota again
    seen = runs.wait_for_phase(cluster, "first", "Succeeded", deadline_s=300)
    assert seen["attempt"] == 3
    assert seen["restarts"] == {"failures": 1, "disruptions": 0, "preemptions": 1, "startups": 0} | {
        "failuresSinceCheckpoint": seen["restarts"]["failuresSinceCheckpoint"]
    }
    assert sorted(set(runs.metric_steps(cluster, "first"))) == list(range(1, NUM_STEPS + 1))
    runs.wait_for_phase(cluster, "second", "Succeeded")
    wait_until(lambda: not cluster.get_json("workloads.kueue.x-k8s.io")["items"], 30)
    assert "first-a3" in runs.job_names(cluster, "first"), "the last attempt's Job, and so its log, is kept"


@pytest.mark.full
def test_a_held_run_says_how_many_are_ahead_of_it_as_kueues_visibility_api_does(
    installed: tuple[Cluster, Kueue],
) -> None:
    cluster, _ = installed
    install(cluster, build_queue("empty", gpus=0))
    corpus = runs.upload_corpus(cluster, "corpora/kueue-position")
    for position, name in enumerate(("ahead", "behind")):
        runs.apply(cluster, runs.manifest(name, corpus, queue={"name": "empty"}))
        seen = runs.wait_for(
            cluster, name, lambda seen, want=position: seen.get("queue", {}).get("position") == want, "its position"
        )
    assert seen["queue"]["message"].endswith("; 1 ahead in queue empty")
    cluster.kubectl("delete", "trainingrun", "ahead", "behind")


@pytest.mark.full
def test_while_kueue_is_down_a_run_says_so_and_when_it_is_back_the_run_goes_on(
    installed: tuple[Cluster, Kueue],
) -> None:
    cluster, kueue = installed
    corpus = runs.upload_corpus(cluster, "corpora/kueue-down")
    kueue.kill()
    submit(cluster, "later", corpus, "low", steps=20)

    def says_so(seen: dict[str, Any]) -> bool:
        return "failed calling webhook" in next(
            (each["message"] for each in seen.get("conditions", []) if each["type"] == "Ready"), ""
        )

    runs.wait_for(cluster, "later", says_so, "what is wrong")
    kueue.start()
    seen = runs.wait_for_phase(cluster, "later", "Succeeded")
    assert seen["attempt"] == 1


@pytest.mark.full
def test_a_queue_that_sends_its_jobs_to_other_clusters_is_refused_with_what_to_do(
    installed: tuple[Cluster, Kueue],
) -> None:
    cluster, _ = installed
    make_multikueue_queue(cluster)
    runs.apply(cluster, runs.manifest("far", runs.upload_corpus(cluster, "corpora/far"), queue={"name": "far"}))
    seen = runs.wait_for(cluster, "far", lambda seen: "other clusters" in queue_message(seen), "the refusal")
    assert seen["attempt"] == 0


# ------------------------------------------------------------------------------------- the test plays Kueue's part


FAILED = {"phase": "Failed", "containerStatuses": [ENDED | {"state": {"terminated": {"exitCode": 1}}}]}


@dataclass(frozen=True)
class Player(GangWatcher):
    """Kueue's part: it admits and evicts the place of run `cpt`."""

    @property
    def place_path(self) -> str:
        return self.path("jobs/cpt-place", "batch/v1")

    async def patch_place(self, spec: dict[str, Any]) -> None:
        await self.kube.request("PATCH", self.place_path, body={"spec": spec}, content_type=MERGE_PATCH)

    async def counts(self) -> tuple[int, int]:
        """Return how many active and ready pods the place's status has."""
        seen = (await self.kube.get(self.place_path)).get("status", {})
        return seen.get("active", 0), seen.get("ready", 0)

    async def fail_a_pod(self) -> None:
        pod = next(pod for pod in await self.list_all("pods") if pod["metadata"]["name"].startswith("cpt-a2-0"))
        path = self.path(f"pods/{pod['metadata']['name']}/status")
        await self.kube.request("PATCH", path, body={"status": FAILED}, content_type=MERGE_PATCH)

    async def phase_is(self, phase: str) -> bool:
        return (await self.status("cpt")).get("phase") == phase

    async def jobs(self) -> set[str]:
        return {job["metadata"]["name"] for job in await self.list_all("jobs", "batch/v1")}


@pytest.mark.usefixtures("as_administrator")
def test_what_kueue_does_to_the_place_starts_and_stops_the_attempts(namespace: Namespace) -> None:
    async def story() -> None:
        async with connect() as kube:
            player = Player(kube, namespace.name)
            await player.submit("cpt", queue={"name": "gpus"})

            async def is_held() -> bool:
                await player.end("prepare")
                return await player.phase_is("Queued")

            await player.wait_for(is_held, "it is held")
            await player.wait_for(lambda: has_place(player), "it has a place")
            held = await kube.get(player.place_path)
            assert held["spec"]["suspend"] is True

            # admitted: first where its pods are to run, then that they may
            await player.patch_place({"template": {"spec": {"nodeSelector": {"gpu": "h100"}}}})
            await player.patch_place({"suspend": False})
            await player.wait_for(lambda: has_counts(player, 2, 0), "two pods, which the place counts")
            job = await kube.get(player.path("jobs/cpt-a1", "batch/v1"))
            assert job["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
            assert [owner["name"] for owner in job["metadata"]["ownerReferences"]] == ["cpt-place", "cpt"]
            assert not [pod for pod in await player.list_all("pods") if "place" in pod["metadata"]["name"]]

            # evicted, and admitted again
            await player.patch_place({"suspend": True})
            await player.wait_for(lambda: has_counts(player, 0, 0), "no pods, which the place tells")
            seen = await player.status("cpt")
            assert (seen["phase"], seen["restarts"]["preemptions"], seen["endedAttempt"]) == ("Queued", 1, 1)
            assert await player.jobs() == {"cpt-place", "cpt-prepare"}
            await player.patch_place({"suspend": False})
            await player.wait_for(lambda: has_counts(player, 2, 0), "the second attempt")

            # a failure does not touch the place
            await player.fail_a_pod()
            await player.wait_for(lambda: has_job(player, "cpt-a3"), "the third attempt")
            kept = await kube.get(player.place_path)
            assert (kept["metadata"]["uid"], kept["spec"]["suspend"]) == (held["metadata"]["uid"], False)

            async def is_done() -> bool:
                await player.end("train")
                return await player.phase_is("Succeeded") and "cpt-place" not in await player.jobs()

            await player.wait_for(is_done, "it has succeeded and given its place back")
            assert await player.jobs() == {"cpt-prepare", "cpt-a2", "cpt-a3"}, "what has a log is kept"

    with namespace.operator("a") as operator:
        wait_for_leader(operator)
        asyncio.run(story())


async def has_place(player: Player) -> bool:
    return await has_job(player, "cpt-place")


async def has_job(player: Player, name: str) -> bool:
    return name in await player.jobs()


async def has_counts(player: Player, active: int, ready: int) -> bool:
    return await player.counts() == (active, ready)
