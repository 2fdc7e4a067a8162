"""GPUBudgets and their ledgers in the cluster: read and written.

A ledger is a ConfigMap that belongs to its budget. It is written with the resourceVersion that it was read with, so a
replica that has lost the lease can add nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runyard.api.gpubudget import BUDGET_KIND, BUDGET_PLURAL, GPUBudgetStatus
from runyard.api.trainingrun import API_VERSION, PLURAL
from runyard.cluster.client import MERGE_PATCH, METADATA_ONLY
from runyard.cluster.objects import collection_path, is_owned_by, merge_patch, parse_run
from runyard.cluster.runs import Cluster
from runyard.decide.budgets import Ledger, Spent, format_ledger, parse_ledger
from runyard.decide.values import Manifest

_BUDGETS = f"/apis/{API_VERSION}/{BUDGET_PLURAL}"
_KEY = "ledger.json"


@dataclass(frozen=True)
class StoredLedger:
    """A ledger as it was read."""

    ledger: Ledger
    """Empty where there is none yet, or only that of an earlier budget of the same name."""
    resource_version: str | None
    """Of the ConfigMap; None where there is none."""
    is_own: bool
    """Whether the ConfigMap belongs to this budget."""


class BudgetStore:
    """The budgets of a cluster, with their ledgers in `namespace`. All methods raise ApiError, those that write
    NotLeaderError.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._ledgers = collection_path("v1", namespace, "configmaps")

    async def list_names(self) -> list[str]:
        """Return the names of all budgets."""
        return [each["metadata"]["name"] for each in await self._cluster.list_all(_BUDGETS)]

    async def read(self, name: str) -> Manifest | None:
        """Return the budget; None where it is gone or going."""
        manifest = await self._cluster.read(f"{_BUDGETS}/{name}")
        return None if manifest is None or "deletionTimestamp" in manifest["metadata"] else manifest

    async def write_status(self, manifest: Manifest, status: GPUBudgetStatus) -> None:
        """Write what differs between the stored status of the budget and `status`."""
        metadata = manifest["metadata"]
        patch = merge_patch(
            manifest.get("status", {}), status.model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        if patch:
            body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": patch}
            await self._cluster.write("PATCH", f"{_BUDGETS}/{metadata['name']}/status", body, MERGE_PATCH)

    async def read_ledger(self, manifest: Manifest) -> StoredLedger:
        """Return the ledger of the budget."""
        metadata = manifest["metadata"]
        stored = await self._cluster.read(f"{self._ledgers}/{name_ledger(metadata['name'])}")
        if stored is None:
            return StoredLedger(Ledger(), None, is_own=False)
        is_own = is_owned_by(stored, metadata["uid"])
        ledger = parse_ledger(stored["data"][_KEY]) if is_own else Ledger()
        return StoredLedger(ledger, stored["metadata"]["resourceVersion"], is_own)

    async def write_ledger(self, manifest: Manifest, before: StoredLedger, ledger: Ledger) -> None:
        """Write the ledger of the budget; a ConfigMap that an earlier budget of the same name has left becomes its."""
        metadata, name = manifest["metadata"], name_ledger(manifest["metadata"]["name"])
        owner = {"apiVersion": API_VERSION, "kind": BUDGET_KIND, "name": metadata["name"], "uid": metadata["uid"]}
        body: dict[str, Any] = {
            "metadata": {"name": name, "ownerReferences": [owner | {"controller": True}]},
            "data": {_KEY: format_ledger(ledger)},
        }
        if before.resource_version is None:
            await self._cluster.write("POST", self._ledgers, body | {"apiVersion": "v1", "kind": "ConfigMap"})
        else:
            body["metadata"]["resourceVersion"] = before.resource_version
            await self._cluster.write("PATCH", f"{self._ledgers}/{name}", body, MERGE_PATCH)

    async def read_namespace_labels(self) -> dict[str, dict[str, str]]:
        """Return the labels of every namespace, by its name."""
        namespaces = await self._cluster.list_all("/api/v1/namespaces", accept=METADATA_ONLY)
        return {each["metadata"]["name"]: each["metadata"].get("labels") or {} for each in namespaces}

    async def read_spent(self, namespaces: Iterable[str]) -> dict[str, Spent]:
        """Return what the runs of these namespaces have cost until now, by UID."""
        found = {}
        for namespace in sorted(namespaces):
            for run in map(parse_run, await self._cluster.list_all(collection_path(API_VERSION, namespace, PLURAL))):
                seconds = run.status.gpu_seconds.allocated if run.status.gpu_seconds else 0
                found[run.uid] = Spent(namespace, seconds)
        return found

    async def list_run_uids(self) -> set[str]:
        """Return the UIDs of all runs."""
        listed = await self._cluster.list_all(f"/apis/{API_VERSION}/{PLURAL}", accept=METADATA_ONLY)
        return {each["metadata"]["uid"] for each in listed}


def name_ledger(budget_name: str) -> str:
    """Return the name of a budget's ConfigMap."""
    return f"gpubudget-{budget_name}"
