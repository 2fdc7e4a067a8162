"""Keeping the ledgers of GPUBudgets: what reconciling a run has just seen of its cost goes into those that count it.

    Reconciler ── note(run, its total) ──> what is not booked yet ─(half a minute, all runs together)─┐
    watch ── a budget was changed ──────────────────────────────────────> reconcile(budget) <─────────┘
                                            ledger (a ConfigMap of the operator's) and status of the budget
                                            └─> who is blocked ──> Reconciler

A budget's ledger belongs to it, and goes with it. It is written with the resourceVersion that it was read with: a
replica that has lost the lease can add nothing, and what it had seen adds nothing when it leads again. What a run was
seen to have spent is kept in memory until it is booked: if the operator dies and the run is deleted before it is back,
up to half a minute of that run is not counted.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from runyard.api.gpubudget import BUDGET_KIND, BUDGET_PLURAL, GPUBudgetSpec, GPUBudgetStatus
from runyard.api.trainingrun import API_VERSION, PLURAL
from runyard.cluster.client import MERGE_PATCH, METADATA_ONLY, ApiError
from runyard.cluster.events import Subject, record_event
from runyard.cluster.objects import collection_path, is_owned_by, merge_patch, parse_run
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

_BUDGETS = f"/apis/{API_VERSION}/{BUDGET_PLURAL}"
_KEY = "ledger.json"


@dataclass(frozen=True)
class _Book:
    """What is remembered of a budget between two looks at it."""

    namespaces: frozenset[str]
    blocked: Mapping[str, str]
    """Why no run of a namespace starts, by namespace."""


class Bookkeeper:
    """All budgets of the cluster."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        instance: str,
        later: Callable[[str, float], None],
        wake: Callable[[str], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Ledgers are in `namespace`; `instance` names this process in Events. `later` has a budget reconciled in so
        many seconds; `wake` is called with a namespace whose waiting runs may look again.
        """
        self._cluster = cluster
        self._namespace = namespace
        self._instance = instance
        self._later = later
        self._wake = wake
        self._now = now
        self._books: dict[str, _Book] = {}
        self._seen: dict[Key, tuple[str, Spent]] = {}
        self._unbooked: defaultdict[str, dict[str, Spent]] = defaultdict(dict)
        """By budget and UID."""
        self._gone: defaultdict[str, set[str]] = defaultdict(set)
        """By budget: UIDs of runs that were deleted."""
        self._loading = asyncio.Lock()
        self._is_loaded = False

    def forget(self) -> None:
        """Another replica leads: what is known of budgets and of runs that were deleted is stale when it is over."""
        self._books.clear()
        self._gone.clear()
        self._is_loaded = False

    # ---------------------------------------------------------------------------------------------------------- runs

    def note(self, key: Key, uid: str | None, gpu_seconds: int = 0) -> None:
        """A run was seen to have cost so much; without `uid`, it is gone."""
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
        """Why no run of the namespace may start; None where it may. Raises ApiError, NotLeaderError."""
        await self._load()
        return next((book.blocked[namespace] for book in self._books.values() if namespace in book.blocked), None)

    def _books_of(self, namespace: str) -> list[str]:
        return [name for name, book in self._books.items() if namespace in book.namespaces]

    async def _load(self) -> None:
        """Look at every budget once: before that it is not known who is blocked."""
        async with self._loading:
            if not self._is_loaded:
                for name in [each["metadata"]["name"] for each in await self._cluster.list_all(_BUDGETS)]:
                    await self._reconcile(name)
                self._is_loaded = True

    # ------------------------------------------------------------------------------------------------------- budgets

    async def reconcile(self, name: str) -> float | None:
        """Book what is not booked, write the budget's status; in how many seconds to look again, None: it is gone.

        Raises ApiError, NotLeaderError: the queue tries again later.
        """
        await self._load()
        try:
            return await self._reconcile(name)
        except ApiError as error:
            if error.reason in ("Conflict", "AlreadyExists"):
                return AFTER_CONFLICT_S
            raise

    async def _reconcile(self, name: str) -> float | None:
        manifest = await self._cluster.read(f"{_BUDGETS}/{name}")
        if manifest is None or "deletionTimestamp" in manifest["metadata"]:
            self._replace(name, None)
            return None
        try:
            spec = GPUBudgetSpec.model_validate(manifest["spec"])
        except ValidationError:  # of a newer version's; the CRD refuses what is wrong
            self._replace(name, None)
            return FOREVER_S
        selected = await self._select(spec)
        used = await self._book(manifest, spec, selected)
        await self._write_status(manifest, spec, used)
        is_blocking = spec.action == "Block" and budgets.is_used_up(spec, used)
        blocked = {each: budgets.describe_block(name, spec, used, each) for each in selected} if is_blocking else {}
        self._replace(name, _Book(selected, blocked))
        return LOOK_AGAIN_S

    async def _select(self, spec: GPUBudgetSpec) -> frozenset[str]:
        namespaces = await self._cluster.list_all("/api/v1/namespaces", accept=METADATA_ONLY)
        return frozenset(
            each["metadata"]["name"]
            for each in namespaces
            if budgets.matches(spec.namespace_selector, each["metadata"].get("labels") or {})
        )

    async def _book(self, manifest: Manifest, spec: GPUBudgetSpec, selected: frozenset[str]) -> dict[str, int]:
        """Bring the ledger up to date; what the window has, by namespace."""
        name, today = manifest["metadata"]["name"], self._now().date()
        path = f"{collection_path('v1', self._namespace, 'configmaps')}/{name_ledger(name)}"
        stored = await self._cluster.read(path)
        is_own = stored is not None and is_owned_by(stored, manifest["metadata"]["uid"])
        old = budgets.parse_ledger(stored["data"][_KEY]) if stored is not None and is_own else Ledger()
        new = budgets.select_namespaces(old, selected, await self._read_spent(selected - old.namespaces))
        found_gone = await self._find_gone(old) if name not in self._books else set()
        gone, unbooked = self._gone[name] | found_gone, dict(self._unbooked[name])
        new = budgets.close(budgets.book(new, unbooked, today), gone, spec, today)
        if not is_own or new != old:
            await self._write_ledger(manifest, stored, new)
        self._gone[name] -= gone
        for uid, spent in unbooked.items():
            if self._unbooked[name].get(uid) == spent:
                del self._unbooked[name][uid]
        return budgets.sum_up(new, spec, today)

    async def _read_spent(self, namespaces: frozenset[str]) -> dict[str, Spent]:
        """What the runs of namespaces have cost until now, by UID."""
        found = {}
        for namespace in sorted(namespaces):
            for run in map(parse_run, await self._cluster.list_all(collection_path(API_VERSION, namespace, PLURAL))):
                seconds = run.status.gpu_seconds.allocated if run.status.gpu_seconds else 0
                found[run.uid] = Spent(namespace, seconds)
        return found

    async def _find_gone(self, ledger: Ledger) -> set[str]:
        """Runs that were deleted while nobody looked."""
        known = ledger.runs.keys() - ledger.closed.keys()
        if not known:
            return set()
        listed = await self._cluster.list_all(f"/apis/{API_VERSION}/{PLURAL}", accept=METADATA_ONLY)
        return known - {each["metadata"]["uid"] for each in listed}

    async def _write_ledger(self, manifest: Manifest, stored: Manifest | None, ledger: Ledger) -> None:
        """One that a budget of the same name has left becomes this one's."""
        metadata, name = manifest["metadata"], name_ledger(manifest["metadata"]["name"])
        path = collection_path("v1", self._namespace, "configmaps")
        owner = {"apiVersion": API_VERSION, "kind": BUDGET_KIND, "name": metadata["name"], "uid": metadata["uid"]}
        body: dict[str, Any] = {
            "metadata": {"name": name, "ownerReferences": [owner | {"controller": True}]},
            "data": {_KEY: budgets.format_ledger(ledger)},
        }
        if stored is None:
            await self._cluster.write("POST", path, body | {"apiVersion": "v1", "kind": "ConfigMap"})
        else:
            body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
            await self._cluster.write("PATCH", f"{path}/{name}", body, MERGE_PATCH)

    async def _write_status(self, manifest: Manifest, spec: GPUBudgetSpec, used: Mapping[str, int]) -> None:
        metadata, stored = manifest["metadata"], manifest.get("status", {})
        old = GPUBudgetStatus.model_validate(stored)
        status = budgets.build_status(spec, used, old, metadata["generation"], self._now())
        patch = merge_patch(stored, status.model_dump(mode="json", by_alias=True, exclude_none=True))
        if patch:
            body: dict[str, Any] = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": patch}
            await self._cluster.write("PATCH", f"{_BUDGETS}/{metadata['name']}/status", body, MERGE_PATCH)
        if told := budgets.build_event(old, status):
            subject = Subject(BUDGET_KIND, metadata["name"], metadata["uid"], metadata["resourceVersion"])
            await record_event(self._cluster, subject, told[1], told[0], self._instance, self._now())

    def _replace(self, name: str, book: _Book | None) -> None:
        """Remember a budget, or that it is gone; wake those who may start now."""
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
        """What was seen of namespaces that are newly counted, while it was not known that they are."""
        seen = {uid: spent for uid, spent in self._seen.values() if spent.namespace in namespaces}
        if seen:
            self._unbooked[name] |= seen
            self._later(name, BOOK_AFTER_S)


def name_ledger(budget_name: str) -> str:
    """Of the ConfigMap."""
    return f"gpubudget-{budget_name}"
