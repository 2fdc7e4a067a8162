"""Bring one run forward: read, plan, apply, one status write, then Events.

    what the watches last said ─> plan ─┬─ nothing to change: done
                                        └─ else: the run, its Jobs and Pods, read ─> plan ─> apply, write

The watches may be behind, so nothing is changed on their word. Most looks change nothing, and read nothing.

What goes wrong while applying is a fact like any other: the plan is made again with it, so that it reaches status in
the same pass, and the pass then counts as failed, so that the queue backs off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from runyard.api.trainingrun import ConditionType, GpuSeconds, Phase, TrainingRunStatus
from runyard.cluster.client import ApiError
from runyard.cluster.events import record_event, subject_of
from runyard.cluster.kueue import QueueReader
from runyard.cluster.objects import diff_status
from runyard.cluster.progress import ProgressReader
from runyard.cluster.runs import Cluster
from runyard.cluster.watch_cache import Sightings
from runyard.control.budgets import Bookkeeper
from runyard.control.wakeups import Turns
from runyard.decide.plan import plan
from runyard.decide.status import find_condition
from runyard.decide.values import Key, Observed, Plan, Run, Settings
from runyard.serving.metrics import Telemetry

logger = logging.getLogger(__name__)

AFTER_CONFLICT_S = 0.2
FOREVER_S = float("inf")


class ApplyError(Exception):
    """Some of a plan's actions failed; status says so."""


def _log_transition(key: Key, before: TrainingRunStatus, planned: Plan) -> None:
    """One line where there is something to tell."""
    ready = find_condition(planned.status, ConditionType.READY)
    if not planned.events or ready is None:
        return
    change = f"{before.phase or 'new'} -> {planned.status.phase}"
    logger.info("%s: %s, attempt %d, %s: %s", key, change, planned.status.attempt, ready.reason, ready.message)


def _now() -> datetime:
    return datetime.now(UTC)


def changes_nothing(run: Run, planned: Plan) -> bool:
    """Whether all is as the plan wants it."""
    return not (planned.actions or planned.needs_namespace or diff_status(run.status, planned.status))


@dataclass(frozen=True)
class Reconciler:
    """What reconciling needs. `instance` names this process in Events."""

    cluster: Cluster
    progress: ProgressReader
    queues: QueueReader
    sightings: Sightings
    telemetry: Telemetry
    turns: Turns
    budgets: Bookkeeper | None
    """None where the operator serves some namespaces only: budgets belong to the cluster."""
    settings: Settings
    instance: str
    now: Callable[[], datetime] = _now

    async def __call__(self, key: Key) -> float | None:
        """Bring `key` forward; return in how many seconds to look again, or None where the run is gone or going.

        Raises ApiError, ApplyError, NotLeaderError: the queue tries again later.
        """
        with self.telemetry.timed_reconcile():
            try:
                return await self._reconcile(key)
            except ApiError as error:
                # someone else was quicker, or the run is gone: nothing is wrong, but all must be read anew
                if error.reason in ("Conflict", "NotFound"):
                    return AFTER_CONFLICT_S
                raise

    async def _reconcile(self, key: Key) -> float | None:
        glance = await self._glance(key)
        if glance is not None:
            return glance
        run = await self.cluster.read_run(key)
        if run is None or run.deleting:
            self.progress.forget(key)
            self._note(key, None)
            if self.budgets is not None and run is None:
                self.budgets.note(key, None)
            return None
        observed = await self._complete(key, run, await self._observe(run))
        planned = plan(run, observed, self.settings, self.now())
        if planned.needs_namespace:
            async with self.turns.take(key.namespace):
                observed = replace(observed, namespace=await self.cluster.observe_namespace(run))
                planned = plan(run, observed, self.settings, self.now())
                return await self._carry_out(key, run, observed, planned)
        return await self._carry_out(key, run, observed, planned)

    async def _glance(self, key: Key) -> float | None:
        """Where there is nothing to change, by what the watches have said: in how many seconds to look again."""
        sighted = None if self.progress.silent_for_s(key) else self.sightings.recall(key)
        if sighted is None or sighted[0].deleting or sighted[0].status.phase is None:
            return None
        run, observed = sighted
        observed = await self._complete(key, run, observed)
        planned = plan(run, observed, self.settings, self.now())
        if not changes_nothing(run, planned):
            return None
        return self._conclude(key, run, planned)

    async def _observe(self, run: Run) -> Observed:
        if run.status.phase is None:
            return Observed()  # at most its preparation was begun, and not written down: that is made once all the same
        observed = await self.cluster.observe(run)
        self.sightings.confirm(run.uid)
        return observed

    async def _complete(self, key: Key, run: Run, observed: Observed) -> Observed:
        """With what is neither a Job nor a Pod of the run; its namespace is looked at when the plan needs it."""
        return replace(
            observed,
            namespace=None,
            source=await self.cluster.read_source(run),
            kueue=await self.queues.read(run, observed.jobs),
            progress=await self.progress.read(key, observed.pods),
            silent_since=self._silent_since(key),
            budget_block=None if self.budgets is None else await self.budgets.why_blocked(key.namespace),
        )

    async def _carry_out(self, key: Key, run: Run, observed: Observed, planned: Plan) -> float:
        applied = await self.cluster.apply(run, planned.actions)
        if applied.failed:
            observed = replace(observed, conflicts=applied.conflicts, apply_errors=applied.errors)
            planned = plan(run, observed, self.settings, self.now())
        await self.cluster.patch_status(run, planned.status)
        _log_transition(key, run.status, planned)
        again_s = self._conclude(key, run, planned)
        occasion = f"generation {run.generation}, attempt {planned.status.attempt}"
        for event in planned.events:
            await record_event(self.cluster, subject_of(run), occasion, event, self.instance, self.now())
        if applied.failed:
            raise ApplyError("; ".join(applied.errors + tuple(f"{name} is not ours" for name in applied.conflicts)))
        return again_s

    def _conclude(self, key: Key, run: Run, planned: Plan) -> float:
        """All is as the plan wants it: tell those who count, and in how many seconds to look again."""
        self._count_cost(key, run, planned.status.gpu_seconds)
        self._note(key, planned.status.phase)
        return self._again_in_s(key, planned)

    def _note(self, key: Key, phase: Phase | None) -> None:
        self.telemetry.set_phase(key, phase)
        self.turns.note(key, phase)

    def _count_cost(self, key: Key, run: Run, cost: GpuSeconds | None) -> None:
        queue = run.spec.queue.name if run.spec is not None else None
        self.telemetry.count_gpu_seconds(key.namespace, queue, run.status.gpu_seconds, cost)
        if self.budgets is not None and cost is not None:
            self.budgets.note(key, run.uid, cost.allocated)

    def _silent_since(self, key: Key) -> datetime | None:
        silent_s = self.progress.silent_for_s(key)
        return None if silent_s is None else self.now() - timedelta(seconds=silent_s)

    def _again_in_s(self, key: Key, planned: Plan) -> float:
        progress_s = self.progress.due_in_s(key)
        planned_s = (planned.requeue_at - self.now()).total_seconds() if planned.requeue_at else None
        return min(seconds for seconds in (progress_s, planned_s, FOREVER_S) if seconds is not None)
