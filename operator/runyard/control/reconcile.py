"""Bring one run forward: read, plan, apply, one status write, then Events.

    cache of the watches ─> plan ─┬─ nothing to change: done
                                  └─ else: read the run, its Jobs and Pods ─> plan ─> apply, write

The cache may be behind, so nothing is changed by what it holds. Most passes change nothing, and read nothing.

An error while applying is observed like any other fact: the plan is made again with it, so that status shows it after
the same pass. The pass then counts as failed, so that the queue backs off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from runyard.api.trainingrun import ConditionType, GpuSeconds, TrainingRunStatus
from runyard.cluster.client import ApiError
from runyard.cluster.events import record_event, subject_of
from runyard.cluster.kueue import KueueReader
from runyard.cluster.objects import diff_status
from runyard.cluster.progress import ProgressReader
from runyard.cluster.runs import Cluster
from runyard.cluster.watch_cache import WatchCache
from runyard.control.budgets import Bookkeeper
from runyard.control.wakeups import Wakeups
from runyard.decide.plan import plan
from runyard.decide.status import find_condition, is_new, read_quota_claim
from runyard.decide.values import Key, Observed, Plan, Run, Settings
from runyard.serving.metrics import Metrics

logger = logging.getLogger(__name__)

AFTER_CONFLICT_S = 0.2
FOREVER_S = float("inf")


class ApplyError(Exception):
    """An action of a plan failed; status says so."""


def _log_transition(key: Key, before: TrainingRunStatus, planned: Plan) -> None:
    """Log one line where the change of status has Events."""
    ready = find_condition(planned.status, ConditionType.READY)
    if not planned.events or ready is None:
        return
    change = f"{before.phase or 'new'} -> {planned.status.phase}"
    logger.info("%s: %s, attempt %d, %s: %s", key, change, planned.status.attempt, ready.reason, ready.message)


def _now() -> datetime:
    return datetime.now(UTC)


def changes_nothing(run: Run, planned: Plan) -> bool:
    """Return whether a plan leaves everything as it is."""
    return not (planned.actions or planned.needs_namespace or diff_status(run.status, planned.status))


@dataclass(frozen=True)
class Reconciler:
    """The parts that reconciling needs. `instance` names this process in Events."""

    cluster: Cluster
    progress: ProgressReader
    kueue: KueueReader
    cache: WatchCache
    metrics: Metrics
    wakeups: Wakeups
    budgets: Bookkeeper | None
    """None where the operator serves some namespaces only: budgets belong to the cluster."""
    settings: Settings
    instance: str
    now: Callable[[], datetime] = _now

    async def __call__(self, key: Key) -> float | None:
        """Bring `key` forward. Return in how many seconds to come back, or None where the run is gone or going.

        Raises ApiError, ApplyError, NotLeaderError: the queue tries again later.
        """
        with self.metrics.timed_reconcile():
            try:
                return await self._reconcile(key)
            except ApiError as error:
                # someone else was quicker, or the run is gone: nothing is wrong, but all must be read anew
                if error.reason in ("Conflict", "NotFound"):
                    return AFTER_CONFLICT_S
                raise

    async def _reconcile(self, key: Key) -> float | None:
        again_s = await self._reconcile_from_cache(key)
        if again_s is not None:
            return again_s
        run = await self.cluster.read_run(key)
        if run is None or run.deleting:
            self.progress.forget(key)
            self._note_status(key, None)
            if self.budgets is not None and run is None:
                self.budgets.note(key, None)
            return None
        observed = await self._complete(key, run, await self._observe(run))
        planned = plan(run, observed, self.settings, self.now())
        if planned.needs_namespace:
            async with self.wakeups.admission_lock(key.namespace):
                observed = replace(observed, namespace=await self.cluster.observe_namespace(run))
                planned = plan(run, observed, self.settings, self.now())
                return await self._carry_out(key, run, observed, planned)
        return await self._carry_out(key, run, observed, planned)

    async def _reconcile_from_cache(self, key: Key) -> float | None:
        """Plan by the cache. Return in how many seconds to come back where nothing is to change, else None."""
        cached = None if self.progress.silent_for_s(key) else self.cache.find(key)
        if cached is None or cached[0].deleting or is_new(cached[0].status):
            return None
        run, observed = cached
        observed = await self._complete(key, run, observed)
        planned = plan(run, observed, self.settings, self.now())
        if not changes_nothing(run, planned):
            return None
        return self._conclude(key, run, planned)

    async def _observe(self, run: Run) -> Observed:
        if is_new(run.status):
            # its prepare Job may be there although the status write was lost: creating it twice makes one
            return Observed()
        observed = await self.cluster.observe(run)
        self.cache.confirm(run.uid)
        return observed

    async def _complete(self, key: Key, run: Run, observed: Observed) -> Observed:
        """Add what is neither a Job nor a Pod of the run; its namespace is read when the plan needs it."""
        return replace(
            observed,
            namespace=None,
            source=await self.cluster.read_source(run),
            kueue=await self.kueue.read(run, observed.jobs),
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
        """Count and note what the pass has seen. Return in how many seconds to come back."""
        self._count_cost(key, run, planned.status.gpu_seconds)
        self._note_status(key, planned.status)
        return self._come_back_in_s(key, planned)

    def _note_status(self, key: Key, status: TrainingRunStatus | None) -> None:
        self.metrics.set_phase(key, None if status is None else status.phase)
        self.wakeups.note(key, None if status is None else read_quota_claim(status))

    def _count_cost(self, key: Key, run: Run, cost: GpuSeconds | None) -> None:
        queue = run.spec.queue.name if run.spec is not None else None
        self.metrics.count_gpu_seconds(key.namespace, queue, run.status.gpu_seconds, cost)
        if self.budgets is not None and cost is not None:
            self.budgets.note(key, run.uid, cost.allocated)

    def _silent_since(self, key: Key) -> datetime | None:
        silent_s = self.progress.silent_for_s(key)
        return None if silent_s is None else self.now() - timedelta(seconds=silent_s)

    def _come_back_in_s(self, key: Key, planned: Plan) -> float:
        progress_s = self.progress.due_in_s(key)
        planned_s = (planned.requeue_at - self.now()).total_seconds() if planned.requeue_at else None
        return min(seconds for seconds in (progress_s, planned_s, FOREVER_S) if seconds is not None)
