"""The plan in a small world that does to a run whatever a cluster can do, in any order.

Pods start, end with any code, are deleted and lost with their nodes; Jobs fail, complete, are deleted; status writes
are lost after the actions; the nodes are full, rank 0 falls silent; the user suspends and resumes; time passes. A run
may queue with Kueue, which admits and evicts it. After each step the promises of `plan` are checked, and in the end the
weather turns good and the run has to arrive.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st
from runyard.api.trainingrun import GpuSeconds, Phase, TrainingRunStatus
from runyard.decide.facts.pods import attempt_of, is_deleting, is_live, is_over, pods_of, role_of
from runyard.decide.plan import plan
from runyard.decide.status import is_finished
from runyard.decide.values import Create, Delete, Manifest, Observed, PatchStatus, Plan
from runyard_trainer.contract.exits import FATAL_EXIT_CODES
from runyard_trainer.contract.reports import CommittedCheckpoint, Progress
from runyard_trainer.contract.times import format_time

from tests.builders import NOW, SETTINGS, SPEC, make_pod, make_progress, make_run, make_unscheduled_pod

GRACE_S = 120
MAX_PASSES = 6


class Cluster:
    """A run, its Jobs and Pods, and those who act on them besides the operator."""

    def __init__(self, queue: str | None = None) -> None:
        self.now = NOW
        self.queue = queue
        self.status = TrainingRunStatus()
        self.suspend = False
        self.is_full = False
        """No node takes another pod."""
        self.jobs: dict[str, Manifest] = {}
        self.pods: dict[str, Manifest] = {}
        self.created: list[str] = []
        self.held: dict[str, tuple[datetime, datetime | None]] = {}
        """Of each train pod that ever ran: from when until when; None: it still does."""
        self.progress: Progress | None = None
        self.silent_since: datetime | None = None
        self._num_made = 0

    # -------------------------------------------------------------------------------------------------- the operator

    def plan(self) -> Plan:
        observed = Observed(
            jobs=tuple(self.jobs.values()),
            pods=tuple(self.pods.values()),
            progress=self.progress,
            silent_since=self.silent_since,
        )
        queue = {} if self.queue is None else {"name": self.queue}
        return plan(make_run(self.status, suspend=self.suspend, queue=queue), observed, SETTINGS, self.now)

    def reconcile(self, *, loses_status: bool = False) -> Plan:
        planned = self.plan()
        for action in planned.actions:
            match action:
                case Create():
                    self._create(action.manifest)
                case Delete():
                    self.delete_job(action.name)
                case PatchStatus():
                    self.jobs[action.name]["status"] |= action.fields
        if not loses_status:
            self.status = planned.status
        return planned

    def _create(self, manifest: Manifest) -> None:
        name = manifest["metadata"]["name"]
        if manifest["kind"] == "Job" and name not in self.jobs:
            self._num_made += 1
            manifest["metadata"] |= {"uid": f"job-{self._num_made}", "resourceVersion": "1"}
            manifest["status"] = {"conditions": [], "startTime": format_time(self.now)}
            self.jobs[name] = manifest
            self.created.append(name)

    # ------------------------------------------------------------------------------------------------------- the others

    def delete_job(self, name: str) -> None:
        """As with background propagation: the Job is gone, its pods are told to stop."""
        for pod in pods_of(self.jobs.pop(name), self.pods.values()):
            self.delete_pod(pod)

    def admit(self, *, admits: bool) -> None:
        """Kueue admits the run, or evicts it."""
        for job in self.jobs.values():
            if role_of(job) == "place":
                job["spec"]["suspend"] = not admits

    def is_admitted(self) -> bool:
        places = [job for job in self.jobs.values() if role_of(job) == "place"]
        return self.queue is None or any(not place["spec"]["suspend"] for place in places)

    def delete_pod(self, pod: Manifest) -> None:
        if not is_deleting(pod):
            deadline = format_time(self.now + timedelta(seconds=GRACE_S))
            pod["metadata"] |= {"deletionTimestamp": deadline, "deletionGracePeriodSeconds": GRACE_S}

    def end_pod(self, pod: Manifest, code: int) -> None:
        if pod["metadata"]["uid"] in self.held:
            self.held[pod["metadata"]["uid"]] = (self.held[pod["metadata"]["uid"]][0], self.now)
        ended = {"exitCode": code, "reason": "Error", "finishedAt": format_time(self.now), "message": ""}
        pod["status"] |= {"phase": "Failed" if code else "Succeeded"}
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended}

    def sync_jobs(self) -> None:
        """The Job controller and the garbage collector."""
        owners = {job["metadata"]["uid"] for job in self.jobs.values()}
        for name, pod in list(self.pods.items()):
            is_orphan = pod["metadata"]["ownerReferences"][0]["uid"] not in owners
            if is_over(pod) and (is_orphan or (is_deleting(pod) and pod["status"]["phase"] == "Succeeded")):
                del self.pods[name]
        for job in self.jobs.values():
            if is_live(job) and "managedBy" not in job["spec"]:
                self._sync_job(job)

    def _sync_job(self, job: Manifest) -> None:
        pods = pods_of(job, self.pods.values())
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        succeeded = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
        spec = job["spec"]
        codes = {pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in failed}
        if len(failed) > spec["backoffLimit"] or (role_of(job) == "prepare" and codes & FATAL_EXIT_CODES):
            self._end_job(job, "Failed")
            for pod in pods:
                if not is_over(pod):
                    self.delete_pod(pod)
        elif len(succeeded) == spec["completions"]:
            self._end_job(job, "Complete")
        else:
            self._make_pods(job, pods)

    def _end_job(self, job: Manifest, condition: str) -> None:
        job["status"]["conditions"].append({"type": condition, "status": "True", "reason": "Because"})

    def _make_pods(self, job: Manifest, pods: list[Manifest]) -> None:
        labels = {pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
        is_busy = role_of(job) == "prepare" and any(pod["status"]["phase"] != "Failed" for pod in pods)
        for index in range(job["spec"]["completions"]):
            if (role_of(job) == "prepare" and not is_busy) or str(index) not in labels:
                self._num_made += 1
                pod = make_unscheduled_pod(job, index) if self.is_full else make_pod(job, index)
                pod["metadata"] |= {"creationTimestamp": format_time(self.now), "uid": f"pod-{self._num_made}"}
                if not self.is_full:
                    self._start(pod)
                self.pods[f"{pod['metadata']['name']}-{self._num_made}"] = pod

    def schedule(self) -> None:
        """There is room again: every pod that waits starts."""
        self.is_full = False
        for pod in self.pods.values():
            if "nodeName" not in pod["spec"]:
                pod["spec"]["nodeName"] = "node-9"
                running = {"name": "trainer", "state": {"running": {}}}
                pod["status"] = {"phase": "Running", "containerStatuses": [running]}
                self._start(pod)

    def _start(self, pod: Manifest) -> None:
        pod["status"]["startTime"] = format_time(self.now)
        if role_of(pod) == "train":
            self.held[pod["metadata"]["uid"]] = (self.now, None)

    def gpu_seconds_held(self) -> float:
        """By all train pods that ever ran."""
        gpus = SPEC["compute"]["gpusPerNode"]
        return sum(gpus * ((end or self.now) - start).total_seconds() for start, end in self.held.values())

    def live_pods(self) -> list[Manifest]:
        return [pod for pod in self.pods.values() if not is_over(pod)]


class Story:
    """What happens to a cluster, with the promises of `plan` checked at each pass."""

    def __init__(self, queue: str | None = None) -> None:
        self.cluster = Cluster(queue)

    def start_an_attempt(self) -> None:
        """Go to where most of it can go wrong."""
        while not self.cluster.live_pods() or self.cluster.status.attempt == 0:
            self.settle()
            self.cluster.admit(admits=True)
            for pod in self.cluster.live_pods():
                self.cluster.end_pod(pod, 0)
            self.cluster.sync_jobs()

    # ------------------------------------------------------------------------------------------------- what can happen

    def end_pod(self, pick: int, code: int) -> None:
        if pods := [pod for pod in self.cluster.live_pods() if "nodeName" in pod["spec"]]:
            self.cluster.end_pod(pods[pick % len(pods)], code)

    def delete_pod(self, pick: int) -> None:
        if pods := self.cluster.live_pods():
            self.cluster.delete_pod(pods[pick % len(pods)])

    def delete_job(self, pick: int) -> None:
        """One that a stored status knows of: one that is deleted before leaves no trace."""
        known = [name for name, job in self.cluster.jobs.items() if attempt_of(job) <= self.cluster.status.attempt]
        if known:
            self.cluster.delete_job(known[pick % len(known)])

    def answer_with_progress(self, pick: int) -> None:
        checkpoint = CommittedCheckpoint(uri="u", step=pick, time="t")
        spent = {"training_seconds": 10.0 * pick, "committed_seconds": 7.0 * pick}
        attempt = max(1, self.cluster.status.attempt)
        self.cluster.silent_since = None
        self.cluster.progress = make_progress(attempt=attempt, step=pick, checkpoint=checkpoint, **spent)

    def set_suspend(self, value: bool) -> None:
        self.cluster.suspend = value

    def fill_nodes(self) -> None:
        self.cluster.is_full = True

    def fall_silent(self) -> None:
        """Rank 0 does not answer any more."""
        self.cluster.progress, self.cluster.silent_since = None, self.cluster.now

    def pass_time(self, seconds: int) -> None:
        self.cluster.now += timedelta(seconds=seconds)

    # ------------------------------------------------------------------------------------------------ what is answered

    def reconcile(self, *, loses_status: bool = False) -> Plan:
        """One pass of the operator, checked."""
        cluster = self.cluster
        before, num_created, was_finished = cluster.status, len(cluster.created), is_finished(cluster.status)
        was_admitted = cluster.is_admitted()
        planned = cluster.reconcile(loses_status=loses_status)
        check_counts(before, cluster.status)
        check_ledger(before, cluster.status, cluster.gpu_seconds_held())
        created = cluster.created[num_created:]
        for name in filter(lambda name: name not in ("cpt-prepare", "cpt-place"), created):
            assert was_admitted, "Kueue has not admitted it"
            assert name == f"cpt-a{before.ended_attempt + 1}", "it does not rest on a stored end of the last attempt"
            assert cluster.created.count(name) == 1, "a second Job for one attempt"
        if was_finished:
            assert not created
            assert cluster.status == before
        live = [job for job in cluster.jobs.values() if is_live(job) and attempt_of(job) > cluster.status.ended_attempt]
        assert len(live) <= 1, "two live attempts"
        return planned

    def settle(self) -> None:
        """Passes at one moment come to rest: then there is nothing to do, to write or to tell."""
        for _ in range(MAX_PASSES):
            before = self.cluster.status
            if not self.reconcile().actions and self.cluster.status == before:
                break
        else:
            raise AssertionError("passes without end")
        again = self.cluster.plan()
        assert (again.actions, again.events, again.status) == ((), (), self.cluster.status)
        assert self.cluster.is_admitted() or again.status.attempt == again.status.ended_attempt, "evicted, it trains on"
        if self.cluster.suspend or is_finished(self.cluster.status):
            on = [name for name, job in self.cluster.jobs.items() if self.would_go_on(job)]
            assert not on or (on == ["cpt-place"] and self.cluster.live_pods()), "it holds quota for nothing"

    def would_go_on(self, job: Manifest) -> bool:
        """Nobody ends this Job: neither the operator, nor the Job controller for a pod that failed."""
        has_failed = any(pod["status"]["phase"] == "Failed" for pod in pods_of(job, self.cluster.pods.values()))
        return is_live(job) and not has_failed

    def act(self) -> None:
        """The operator, and then the Job controller."""
        self.settle()
        self.cluster.sync_jobs()

    def arrive(self) -> None:
        """In good weather every run arrives."""
        self.cluster.suspend, self.cluster.progress, self.cluster.silent_since = False, None, None
        self.cluster.schedule()
        for _ in range(60):
            self.settle()
            self.cluster.admit(admits=True)
            if is_finished(self.cluster.status):
                return
            self.cluster.sync_jobs()
            for pod in self.cluster.live_pods():
                self.cluster.end_pod(pod, 143 if is_deleting(pod) else 0)
            self.cluster.sync_jobs()
            self.cluster.now = max(self.cluster.now, self.cluster.plan().requeue_at or self.cluster.now)
        raise AssertionError(f"the run does not arrive: {self.cluster.status}")


EVENTS: dict[str, Callable[[Story, int], None]] = {
    **{f"a pod ends with {code}": partial(Story.end_pod, code=code) for code in (0, 1, 70, 75, 137, 143)},
    "a pod is deleted": Story.delete_pod,
    "a Job is deleted": Story.delete_job,
    "rank 0 answers": Story.answer_with_progress,
    "suspend": lambda story, _: story.set_suspend(True),
    "resume": lambda story, _: story.set_suspend(False),
    "the nodes are full": lambda story, _: story.fill_nodes(),
    "there is room again": lambda story, _: story.cluster.schedule(),
    "rank 0 falls silent": lambda story, _: story.fall_silent(),
    "Kueue admits": lambda story, _: story.cluster.admit(admits=True),
    "Kueue evicts": lambda story, _: story.cluster.admit(admits=False),
    "a second passes": lambda story, _: story.pass_time(1),
    "minutes pass": lambda story, _: story.pass_time(300),
    "a quarter of an hour passes": lambda story, _: story.pass_time(900),
}
REACTIONS: dict[str, Callable[[Story], object]] = {
    "nobody notices": lambda _: None,
    "the Job controller acts": lambda story: story.cluster.sync_jobs(),
    "the operator makes a pass": Story.reconcile,
    "the operator is killed before its status write": lambda story: story.reconcile(loses_status=True),
    "the operator settles": Story.settle,
    "everyone acts": Story.act,
}


def check_counts(before: TrainingRunStatus, after: TrainingRunStatus) -> None:
    """An attempt that has ended early is counted, once."""
    num_ended = after.ended_attempt - before.ended_attempt
    num_counted = sum(
        getattr(after.restarts, name) - getattr(before.restarts, name)
        for name in ("failures", "disruptions", "preemptions", "startups")
    )
    assert 0 <= num_counted <= num_ended <= 1
    assert after.ended_attempt <= after.attempt <= after.ended_attempt + 1
    was_stopped = after.phase in (Phase.SUSPENDING, Phase.SUCCEEDED)
    assert num_counted == num_ended or was_stopped, "an end that was not counted"


def check_ledger(before: TrainingRunStatus, after: TrainingRunStatus, held: float) -> None:
    """What is counted only grows, and no pod's time counts twice."""
    old, new = before.gpu_seconds or GpuSeconds(), after.gpu_seconds or GpuSeconds()
    assert old.allocated <= new.allocated <= held
    assert new.productive >= old.productive
    assert new.productive + new.lost <= new.allocated


@given(
    st.sampled_from([None, "gpus"]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from([*EVENTS]), st.integers(0, 9), st.sampled_from([*REACTIONS]))),
)
@settings(max_examples=1000)
def test_whatever_happens_each_end_counts_once_no_attempt_starts_twice_and_the_run_arrives(
    queue: str | None, has_begun: bool, happenings: list[tuple[str, int, str]]
) -> None:
    story = Story(queue)
    if has_begun:
        story.start_an_attempt()
    for event, pick, reaction in happenings:
        EVENTS[event](story, pick)
        REACTIONS[reaction](story)
    story.arrive()


def test_the_same_arguments_give_the_same_plan_and_stay_as_they_were() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.sync_jobs()
    jobs = copy.deepcopy(cluster.jobs)
    assert cluster.plan() == cluster.plan()
    assert cluster.jobs == jobs
