"""The bookkeeping of GPUBudgets: what reconciling a run has just seen of its cost goes into the ledgers that count it.

    Reconciler ── note(run, its total) ──> what is not booked yet ─(half a minute, all runs together)─┐
    watch ── a budget was changed ──────────────────────────────────────> reconcile(budget) <─────────┘
                                            ledger (a ConfigMap of the operator's) and status of the budget
                                            └─> who is blocked ──> Reconciler

A budget's ledger belongs to it, and is deleted with it. What a replica had seen before it lost the lease adds nothing
when it leads again. What a run was seen to have spent is kept in memory until it is booked: if the operator dies and
the run is deleted before it is back, up to half a minute of that run is not counted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from runyard.api.gpubudget import BUDGET_KIND, GPUBudgetSpec, GPUBudgetStatus
from runyard.cluster.budgets import BudgetStore
from runyard.cluster.client import ApiError
from runyard.cluster.events import Subject, record_event
from runyard.cluster.runs import Cluster
from runyard.decide import budgets
from runyard.decide.budgets import Ledger, Spent
from runyard.decide.values import Key, Manifest

BOOK_AFTER_S = 20.0
"""How long what was spent waits to be booked."""
AFTER_CONFLICT_S = 0.2
FOREVER_S = float("inf")
LOOK_AGAIN_S = 300.0
"""A namespace's labels may have changed, and a new day begun."""


@dataclass(frozen=True)
class _Book:
    """What is remembered of a budget between two reconciliations."""

    namespaces: frozenset[str]
    blocked: Mapping[str, str]
    """Why no run of a namespace starts, by namespace."""


class Bookkeeper:
    """The books of all budgets of the cluster."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        instance: str,
        later: Callable[[str, float], None],
        wake: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Prepare the books. Ledgers are in `namespace`; `instance` names this process in Events. `later` has a budget
        reconciled in so many seconds; `wake` is called with a namespace whose waiting runs may start.
        """
        self._cluster = cluster
        self._store = BudgetStore(cluster, namespace)
        self._instance = instance
        self._later = later
        self._wake = wake
        self._now = now
        self._books: dict[str, _Book] = {}
        self._seen: dict[Key, tuple[str, Spent]] = {}
        """UID and cost of each run, as last seen."""
        self._unbooked: defaultdict[str, dict[str, Spent]] = defaultdict(dict)
        """By budget and UID."""
        self._gone: defaultdict[str, set[str]] = defaultdict(set)
        """By budget: UIDs of runs that were deleted."""
        self._loading = asyncio.Lock()
        self._is_loaded = False

    def forget(self) -> None:
        """Forget budgets and deleted runs, as another replica leads: they are stale when this one leads again."""
        self._books.clear()
        self._gone.clear()
        self._is_loaded = False

    # ---------------------------------------------------------------------------------------------------------- runs

    def note(self, key: Key, uid: str | None, gpu_seconds: int = 0) -> None:
        """Note what a run was seen to have cost until now; without `uid`, that it is gone."""
        before = self._seen.get(key)
        if before is not None and before[0] == uid:
            gpu_seconds = max(gpu_seconds, before[1].gpu_seconds)  # what a watch says may be behind
        now = (uid, Spent(key.namespace, gpu_seconds)) if uid is not None else None
        if before is not None and (now is None or now[0] != before[0]):
            del self._seen[key]
            for name in self._books_of(key.namespace):
                self._gone[name].add(before[0])
                self._later(name, BOOK_AFTER_S)
        if now is not None and now != before:
            self._seen[key] = now
            for name in self._books_of(key.namespace):
                self._unbooked[name][now[0]] = now[1]
                self._later(name, BOOK_AFTER_S)

    async def why_blocked(self, namespace: str) -> str | None:
        """Return why no run of the namespace may start; None where it may. Raises ApiError, NotLeaderError."""
        await self._load()
        return next((book.blocked[namespace] for book in self._books.values() if namespace in book.blocked), None)

    def _books_of(self, namespace: str) -> list[str]:
        return [name for name, book in self._books.items() if namespace in book.namespaces]

    async def _load(self) -> None:
        """Reconcile every budget once: before that it is not known who is blocked."""
        async with self._loading:
            if not self._is_loaded:
                for name in await self._store.list_names():
                    await self._reconcile(name)
                self._is_loaded = True

    # ------------------------------------------------------------------------------------------------------- budgets

    async def reconcile(self, name: str) -> float | None:
        """Book what is not booked and write the budget's status. Return in how many seconds to come back, or None.

        None means that the budget is gone. Raises ApiError, NotLeaderError: the queue tries again later.
        """
        await self._load()
        try:
            return await self._reconcile(name)
        except ApiError as error:
            if error.reason in ("Conflict", "AlreadyExists"):
                return AFTER_CONFLICT_S
            raise

    async def _reconcile(self, name: str) -> float | None:
        manifest = await self._store.read(name)
        if manifest is None:
            self._replace(name, None)
            return None
        try:
            spec = GPUBudgetSpec.model_validate(manifest["spec"])
        except ValidationError:  # of a newer version's; the CRD refuses what is wrong
            self._replace(name, None)
            return FOREVER_S
        labels = await self._store.read_namespace_labels()
        selected = frozenset(each for each in labels if budgets.matches(spec.namespace_selector, labels[each]))
        used = await self._book(manifest, spec, selected)
        await self._write_status(manifest, spec, used)
        is_blocking = spec.action == "Block" and budgets.is_used_up(spec, used)
        blocked = {each: budgets.describe_block(name, spec, used, each) for each in selected} if is_blocking else {}
        self._replace(name, _Book(selected, blocked))
        return LOOK_AGAIN_S

    async def _book(self, manifest: Manifest, spec: GPUBudgetSpec, selected: frozenset[str]) -> dict[str, int]:
        """Bring the ledger up to date; return the GPU-seconds of the window, by namespace."""
        name, today = manifest["metadata"]["name"], self._now().date()
        stored = await self._store.read_ledger(manifest)
        old = stored.ledger
        new = budgets.select_namespaces(old, selected, await self._store.read_spent(selected - old.namespaces))
        found_gone = await self._find_gone(old) if name not in self._books else set()
        gone, unbooked = self._gone[name] | found_gone, dict(self._unbooked[name])
        new = budgets.close(budgets.book(new, unbooked, today), gone, spec, today)
        if not stored.is_own or new != old:
            await self._store.write_ledger(manifest, stored, new)
        self._gone[name] -= gone
        for uid, spent in unbooked.items():
            if self._unbooked[name].get(uid) == spent:
                del self._unbooked[name][uid]
        return budgets.sum_up(new, spec, today)

    async def _find_gone(self, ledger: Ledger) -> set[str]:
        """Return the runs that were deleted while no replica led."""
        open_runs = ledger.runs.keys() - ledger.closed.keys()
        return open_runs - await self._store.list_run_uids() if open_runs else set()

    async def _write_status(self, manifest: Manifest, spec: GPUBudgetSpec, used: Mapping[str, int]) -> None:
        metadata, old = manifest["metadata"], GPUBudgetStatus.model_validate(manifest.get("status", {}))
        status = budgets.build_status(spec, used, old, metadata["generation"], self._now())
        await self._store.write_status(manifest, status)
        if change := budgets.build_event(old, status):
            event, since = change
            subject = Subject(BUDGET_KIND, metadata["name"], metadata["uid"], metadata["resourceVersion"])
            await record_event(self._cluster, subject, since, event, self._instance, self._now())

    def _replace(self, name: str, book: _Book | None) -> None:
        """Remember a budget, or that it is gone; wake the runs that are not blocked any more."""
        before = self._books.pop(name, None)
        if book is not None:
            self._books[name] = book
            self._add_seen(name, book.namespaces - (before.namespaces if before else frozenset()))
        else:
            self._gone.pop(name, None)
            self._unbooked.pop(name, None)
        for namespace in (before.blocked.keys() if before else set()) - (book.blocked.keys() if book else set()):
            self._wake(namespace)

    def _add_seen(self, name: str, namespaces: frozenset[str]) -> None:
        """Book later what was seen of namespaces that are newly counted, while it was not known that they are."""
        seen = {uid: spent for uid, spent in self._seen.values() if spent.namespace in namespaces}
        if seen:
            self._unbooked[name] |= seen
            self._later(name, BOOK_AFTER_S)
