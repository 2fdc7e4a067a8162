"""What `runyard quota` shows, read with the caller's own rights: runs, ResourceQuotas and budgets."""

from __future__ import annotations

from runyard_trainer.contract.exits import UserError

from runyard.api.gpubudget import BUDGET_PLURAL
from runyard.api.trainingrun import API_VERSION, PLURAL
from runyard.cluster.client import ApiError, Kube, connect
from runyard.cluster.objects import parse_run
from runyard.decide.values import Manifest, Run


async def read_quota_usage(namespace: str | None) -> tuple[list[Run], list[Manifest], list[Manifest]]:
    """Read all runs and ResourceQuotas, of one namespace or of every one, and the budgets that the caller may read.

    Raises:
        UserError: they may not be read, or there is no cluster.
    """
    scope = f"namespaces/{namespace}/" if namespace else ""
    try:
        async with connect() as kube:
            runs = (await kube.get(f"/apis/{API_VERSION}/{scope}{PLURAL}"))["items"]
            quotas: list[Manifest] = (await kube.get(f"/api/v1/{scope}resourcequotas"))["items"]
            budgets = await _list_budgets(kube)
    except ApiError as error:
        hint = "" if namespace else ". Name a namespace of yours with -n" if error.status == 403 else ""
        raise UserError(f"the API server does not answer: {error}{hint}") from error
    return [parse_run({"apiVersion": API_VERSION, **run}) for run in runs], quotas, budgets


async def _list_budgets(kube: Kube) -> list[Manifest]:
    """List the budgets, which belong to the cluster; none where the caller may not read them."""
    try:
        found: list[Manifest] = (await kube.get(f"/apis/{API_VERSION}/{BUDGET_PLURAL}"))["items"]
    except ApiError as error:
        if error.status in (403, 404):
            return []
        raise
    return found
