"""What the parts of an agent share: who the node is, where things lie, and how the API server is reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from runyard_local.client import ApiError, Client
from runyard_local.node.addresses import AddressPool
from runyard_local.node.container import volumes
from runyard_local.node.container.environment import SECRET, Reference
from runyard_local.node.container.mounts import HostView
from runyard_local.node.etc_hosts import HostsEntry
from runyard_local.node.folders import NodeDir

_PLURALS = {SECRET: "secrets", "ConfigMap": "configmaps"}


@dataclass(frozen=True)
class NodeContext:
    """One node of an instance."""

    name: str
    index: int
    num_gpus: int
    client: Client
    addresses: AddressPool
    host_view: HostView
    folder: NodeDir
    hosts_entries: dict[str, HostsEntry] = field(default_factory=dict)
    """Every pod of the cluster that can be found by name, by UID."""

    @property
    def address(self) -> str:
        return self.addresses.node_address

    async def read_objects(
        self, namespace: str, references: Iterable[Reference]
    ) -> dict[Reference, dict[str, bytes] | None]:
        """The data of ConfigMaps and Secrets; None where there is none. Raises ApiError."""
        return {reference: await self._read_object(namespace, *reference) for reference in set(references)}

    async def _read_object(self, namespace: str, kind: str, name: str) -> dict[str, bytes] | None:
        try:
            found = await self.client.get(f"/api/v1/namespaces/{namespace}/{_PLURALS[kind]}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return volumes.decode_object(kind, found)


def pod_path(pod: dict[str, Any], subresource: str = "") -> str:
    """The path of a pod in the API."""
    metadata = pod["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}{subresource}"


def format_now() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
