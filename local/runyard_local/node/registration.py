"""Keep the Node object and its Lease, which the scheduler and the node lifecycle controller read."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from datetime import UTC, datetime
from typing import Any

import psutil

from runyard_local.client import STRATEGIC_MERGE_PATCH, ApiError
from runyard_local.node.context import NodeContext, format_now

MAX_PODS = 110

_HEARTBEAT_S = 5.0
_LEASE_S = 40
_MIN_CPUS = 64
"""CPUs that a node claims at least: more than a laptop has, so that every pod of a demo fits, only slower."""

log = logging.getLogger(__name__)


async def keep_registered(node: NodeContext, port: int) -> None:
    """Register, then renew Lease and status for ever. `port` serves the logs."""
    while True:
        try:
            await _patch_or_create_node(node, build_node(node, port, is_ready=True))
            await _renew_lease(node)
        except ApiError as error:
            log.warning("cannot renew the node: %s", error)
            await asyncio.sleep(1)
        else:
            await asyncio.sleep(_HEARTBEAT_S)


async def report_not_ready(node: NodeContext, port: int) -> None:
    """Report that the node goes down: it must not count as ready when the instance is up again."""
    body = {"status": {"conditions": build_node(node, port, is_ready=False)["status"]["conditions"]}}
    try:
        await node.client.patch(f"/api/v1/nodes/{node.name}/status", body, STRATEGIC_MERGE_PATCH)
    except ApiError as error:
        log.info("cannot report the node's end: %s", error)


async def _patch_or_create_node(node: NodeContext, wanted: dict[str, Any]) -> None:
    body = {"status": wanted["status"]}
    try:
        await node.client.patch(f"/api/v1/nodes/{node.name}/status", body, STRATEGIC_MERGE_PATCH)
    except ApiError as error:
        if error.status != 404:
            raise
        await node.client.create("/api/v1/nodes", wanted)


async def _renew_lease(node: NodeContext) -> None:
    path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": node.name, "leaseDurationSeconds": _LEASE_S, "renewTime": now}
    try:
        await node.client.patch(f"{path}/{node.name}", {"spec": spec})
    except ApiError as error:
        if error.status != 404:
            raise
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node.name}, "spec": spec}
        await node.client.create(path, lease)


def build_node(node: NodeContext, port: int, *, is_ready: bool) -> dict[str, Any]:
    """Build the Node object. Each node claims the machine's whole memory and disk: limits are not enforced."""
    resources = {
        "cpu": str(max(_MIN_CPUS, os.cpu_count() or 1)),
        "memory": f"{psutil.virtual_memory().total // 1024}Ki",
        "ephemeral-storage": f"{shutil.disk_usage(node.host_view.hidden_dir).total // 1024}Ki",
        "pods": str(MAX_PODS),
        "nvidia.com/gpu": str(node.num_gpus),
    }
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", "kubernetes.io/arch": architecture}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": node.address},
                {"type": "Hostname", "address": node.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "conditions": [_build_ready_condition(is_ready)],
            "nodeInfo": {
                "architecture": architecture,
                "operatingSystem": "linux",
                "kernelVersion": platform.release(),
                "osImage": platform.platform(),
                "containerRuntimeVersion": "processes://1",
                "kubeletVersion": "v1.37.2-runyard-local",
                "kubeProxyVersion": "",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        },
    }


def _build_ready_condition(is_ready: bool) -> dict[str, Any]:
    now = format_now()
    reason = ("KubeletReady", "the node agent runs") if is_ready else ("KubeletNotReady", "the node agent was stopped")
    return {
        "type": "Ready",
        "status": str(is_ready),
        "reason": reason[0],
        "message": reason[1],
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
