"""What a rule may look at: a run, what was observed of it and the time, with the facts that follow from them. Pure."""

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
    """A run as it is now."""

    run: Run
    observed: Observed
    settings: Settings
    now: datetime

    @property
    def spec(self) -> TrainingRunSpec:
        """Rules after `has_invalid_spec` have one."""
        assert self.run.spec is not None
        return self.run.spec

    @property
    def recovery(self) -> Recovery:
        """What happens when an attempt ends early."""
        return self.spec.recovery

    @cached_property
    def attempt_spec(self) -> TrainingRunSpec:
        """The spec as an attempt has it now: with `compute.nodes`, or what of them found room, and the PriorityClass
        that its pods have; a class that only Kueue knows is none.
        """
        nodes = min(self.run.status.nodes or self.spec.compute.nodes, self.spec.compute.nodes)
        changed: dict[str, object] = {"compute": self.spec.compute.model_copy(update={"nodes": nodes})}
        if self.place_job is not None and "priorityClassName" not in self.place_job["spec"]["template"]["spec"]:
            changed["queue"] = self.spec.queue.model_copy(update={"priority_class_name": None})
        return self.spec.model_copy(update=changed)

    @cached_property
    def recipe(self) -> Recipe:
        """What the pods read."""
        return manifests.resolve_recipe(self.run, self.spec, self.settings)

    @cached_property
    def known(self) -> TrainingRunStatus:
        """The stored status and what the observation adds to it; nothing to that of a finished run."""
        if status.is_finished(self.run.status):
            return self.run.status
        known = self.run.status.model_copy(update={"attempt": self.attempt})
        if self.run.spec is not None:
            known = status.learn_shape(known, self.run.spec)
        known = status.learn_preparation(known, self._read_report(self.prepare_pods, exit_code=0))
        last_words = self.read_rank_0_report()
        said = self.observed.progress or (last_words.progress if last_words else None)
        known = status.learn_progress(known, last_words.progress if last_words else None)
        known = status.learn_progress(known, self.observed.progress)
        gpus_per_pod = self.run.spec.compute.gpus_per_node if self.run.spec is not None else 0
        cost = gpu_seconds.account(
            self.run.status, self.attempt, self.attempt_pods, self.attempt_job, gpus_per_pod, said, self.now
        )
        return known.model_copy(update=cost)

    # ------------------------------------------------------------------------------------------------------- prepare

    @cached_property
    def prepare_job(self) -> Manifest | None:
        """The Job that prepares."""
        return next((job for job in self.observed.jobs if pods.role_of(job) == Role.PREPARE), None)

    @cached_property
    def prepare_pods(self) -> list[Manifest]:
        """Those of the prepare Job that is there now, oldest first: an earlier one's say nothing about it."""
        found = pods.pods_of(self.prepare_job, self.observed.pods) if self.prepare_job else []
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    @cached_property
    def is_prepared(self) -> bool:
        """Also remembered: the Job may be gone by now."""
        is_complete = self.prepare_job is not None and pods.is_complete(self.prepare_job)
        return is_complete or status.is_true(self.run.status, ConditionType.PREPARED)

    # ------------------------------------------------------------------------------------------------------- attempts

    @cached_property
    def place_job(self) -> Manifest | None:
        """The Job that holds the run's place in a queue of Kueue."""
        return next((job for job in self.observed.jobs if pods.role_of(job) == Role.PLACE), None)

    @property
    def lacks_place(self) -> bool:
        """It queues with Kueue, which does not let it start."""
        place = self.place_job
        return self.spec.queue.name is not None and (place is None or bool(place["spec"].get("suspend")))

    @cached_property
    def train_jobs(self) -> list[Manifest]:
        """The Jobs of all attempts that are still there."""
        return [job for job in self.observed.jobs if pods.role_of(job) == Role.TRAIN]

    @cached_property
    def train_pods(self) -> list[Manifest]:
        """The pods of all attempts that are still there."""
        return [pod for pod in self.observed.pods if pods.role_of(pod) == Role.TRAIN]

    @cached_property
    def attempt(self) -> int:
        """The newest attempt: its Job or pods can be there although the status write after them was lost."""
        return max([self.run.status.attempt, *map(pods.attempt_of, (*self.train_jobs, *self.train_pods))])

    @property
    def is_attempting(self) -> bool:
        """The newest attempt's end is not settled."""
        return self.attempt > self.run.status.ended_attempt

    @cached_property
    def attempt_job(self) -> Manifest | None:
        """The newest attempt's Job."""
        return next((job for job in self.train_jobs if pods.attempt_of(job) == self.attempt), None)

    @cached_property
    def attempt_pods(self) -> list[Manifest]:
        """The newest attempt's pods."""
        return [pod for pod in self.train_pods if pods.attempt_of(pod) == self.attempt]

    @property
    def num_held_gpus(self) -> int:
        """GPUs that pods of the newest attempt hold now."""
        gpus_per_pod = self.run.spec.compute.gpus_per_node if self.run.spec is not None else 0
        return gpus_per_pod * sum(pods.is_alive(pod, self.now) for pod in self.attempt_pods)

    @cached_property
    def was_running(self) -> Condition | None:
        """The stored Running, where it holds and is about the newest attempt."""
        condition = status.find_condition(self.run.status, ConditionType.RUNNING)
        holds = condition is not None and condition.status == "True" and self.run.status.attempt == self.attempt
        return condition if holds else None

    @property
    def silent_since(self) -> datetime | None:
        """Since when rank 0, which has answered in this attempt, does not any more."""
        return self.observed.silent_since if self.was_running else None

    def read_rank_0_report(self) -> PodReport | None:
        """The last words of the newest attempt's rank 0."""
        return self._read_report([pod for pod in self.attempt_pods if pods.index_of(pod) == 0])

    def _read_report(self, candidates: list[Manifest], exit_code: int | None = None) -> PodReport | None:
        ends = [end for pod in candidates if (end := pods.read_termination(pod))]
        wanted = (end.report for end in reversed(ends) if exit_code is None or end.exit_code == exit_code)
        return next((report for report in wanted if report), None)


def build_delete(job: Manifest) -> Delete:
    """Delete the Job as it was seen."""
    metadata = job["metadata"]
    return Delete("Job", metadata["name"], metadata["uid"], metadata["resourceVersion"])
