"""The input of every rule: a run, what was observed of it and the time, with the facts that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import PodReport

from runyard.api.trainingrun import Condition, ConditionType, Recovery, Role, TrainingRunSpec, TrainingRunStatus
from runyard.decide import manifests, status
from runyard.decide.facts import gpu_seconds, pods
from runyard.decide.values import Delete, Manifest, Observed, Run, Settings


@dataclass(frozen=True)
class Situation:
    """A run as it is now. Facts are derived when a rule first asks for them."""

    run: Run
    observed: Observed
    settings: Settings
    now: datetime

    @property
    def spec(self) -> TrainingRunSpec:
        """Return the spec, which is valid for every rule after `has_invalid_spec`."""
        assert self.run.spec is not None
        return self.run.spec

    @property
    def recovery(self) -> Recovery:
        """Return what happens when an attempt ends early."""
        return self.spec.recovery

    @cached_property
    def attempt_spec(self) -> TrainingRunSpec:
        """Return the spec of the next attempt: with the nodes that found room, where these are fewer than
        `compute.nodes`, and without a class of priority that only Kueue knows, as its pods cannot have that.
        """
        nodes = min(self.run.status.nodes or self.spec.compute.nodes, self.spec.compute.nodes)
        changed: dict[str, object] = {"compute": self.spec.compute.model_copy(update={"nodes": nodes})}
        if self.place_job is not None and "priorityClassName" not in self.place_job["spec"]["template"]["spec"]:
            changed["queue"] = self.spec.queue.model_copy(update={"priority_class_name": None})
        return self.spec.model_copy(update=changed)

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe that the pods read."""
        return manifests.resolve_recipe(self.run, self.spec, self.settings)

    @cached_property
    def known(self) -> TrainingRunStatus:
        """Return the stored status with what the observation adds to it; nothing is added for a finished run."""
        if status.is_finished(self.run.status):
            return self.run.status
        known = self.run.status.model_copy(update={"attempt": self.attempt})
        if self.run.spec is not None:
            known = status.learn_shape(known, self.run.spec)
        known = status.learn_preparation(known, self._read_report(self.prepare_pods, exit_code=0))
        report = self.read_rank_0_report()
        reported_progress = report.progress if report else None
        known = status.learn_progress(known, reported_progress)
        known = status.learn_progress(known, self.observed.progress)
        progress = self.observed.progress or reported_progress
        gpus_per_pod = self.run.spec.compute.gpus_per_node if self.run.spec is not None else 0
        cost = gpu_seconds.account(
            self.run.status, self.attempt, self.attempt_pods, self.attempt_job, gpus_per_pod, progress, self.now
        )
        return known.model_copy(update=cost)

    # ------------------------------------------------------------------------------------------------------- prepare

    @cached_property
    def prepare_job(self) -> Manifest | None:
        """Return the Job that prepares."""
        return next((job for job in self.observed.jobs if pods.role_of(job) == Role.PREPARE), None)

    @cached_property
    def prepare_pods(self) -> list[Manifest]:
        """Return the pods of the present prepare Job, oldest first, without those of an earlier one."""
        found = pods.pods_of(self.prepare_job, self.observed.pods) if self.prepare_job else []
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    @cached_property
    def is_prepared(self) -> bool:
        """Return whether the data is prepared; status remembers it, as the Job may be gone."""
        is_complete = self.prepare_job is not None and pods.is_complete(self.prepare_job)
        return is_complete or status.is_true(self.run.status, ConditionType.PREPARED)

    # ------------------------------------------------------------------------------------------------------- attempts

    @cached_property
    def place_job(self) -> Manifest | None:
        """Return the Job that holds the run's place in a queue of Kueue."""
        return next((job for job in self.observed.jobs if pods.role_of(job) == Role.PLACE), None)

    @property
    def lacks_place(self) -> bool:
        """Return whether the run queues with Kueue, which has not admitted it."""
        place = self.place_job
        return self.spec.queue.name is not None and (place is None or bool(place["spec"].get("suspend")))

    @cached_property
    def train_jobs(self) -> list[Manifest]:
        """Return the Jobs of all attempts that are still there."""
        return [job for job in self.observed.jobs if pods.role_of(job) == Role.TRAIN]

    @cached_property
    def train_pods(self) -> list[Manifest]:
        """Return the pods of all attempts that are still there."""
        return [pod for pod in self.observed.pods if pods.role_of(pod) == Role.TRAIN]

    @cached_property
    def attempt(self) -> int:
        """Return the newest attempt: its Job or pods can be there although the status write after them was lost."""
        return max([self.run.status.attempt, *map(pods.attempt_of, (*self.train_jobs, *self.train_pods))])

    @property
    def is_attempting(self) -> bool:
        """Return whether the newest attempt's end is not settled yet."""
        return self.attempt > self.run.status.ended_attempt

    @cached_property
    def attempt_job(self) -> Manifest | None:
        """Return the newest attempt's Job."""
        return next((job for job in self.train_jobs if pods.attempt_of(job) == self.attempt), None)

    @cached_property
    def attempt_pods(self) -> list[Manifest]:
        """Return the newest attempt's pods."""
        return [pod for pod in self.train_pods if pods.attempt_of(pod) == self.attempt]

    @property
    def num_held_gpus(self) -> int:
        """Return how many GPUs the pods of the newest attempt hold now."""
        gpus_per_pod = self.run.spec.compute.gpus_per_node if self.run.spec is not None else 0
        return gpus_per_pod * sum(pods.is_alive(pod, self.now) for pod in self.attempt_pods)

    @cached_property
    def was_running(self) -> Condition | None:
        """Return the stored condition Running, where it holds and is about the newest attempt."""
        condition = status.find_condition(self.run.status, ConditionType.RUNNING)
        holds = condition is not None and condition.status == "True" and self.run.status.attempt == self.attempt
        return condition if holds else None

    @property
    def silent_since(self) -> datetime | None:
        """Return since when rank 0 does not answer any more that has answered in this attempt."""
        return self.observed.silent_since if self.was_running else None

    def read_rank_0_report(self) -> PodReport | None:
        """Return the report of the newest attempt's rank 0, if it has ended with one."""
        return self._read_report([pod for pod in self.attempt_pods if pods.index_of(pod) == 0])

    def _read_report(self, candidates: list[Manifest], exit_code: int | None = None) -> PodReport | None:
        ends = [end for pod in candidates if (end := pods.read_termination(pod))]
        wanted = (end.report for end in reversed(ends) if exit_code is None or end.exit_code == exit_code)
        return next((report for report in wanted if report), None)


def build_delete(job: Manifest) -> Delete:
    """Build the action that deletes the Job, and only as it was seen."""
    metadata = job["metadata"]
    return Delete("Job", metadata["name"], metadata["uid"], metadata["resourceVersion"])
