"""The values that the parts of an agent share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

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
    """One node of an instance: its name, its folder, its addresses, and its client of the API server."""

    name: str
    index: int
    num_gpus: int
    client: Client
    addresses: AddressPool
    host_view: HostView
    folder: NodeDir
    hosts_entries: dict[str, HostsEntry] = field(default_factory=dict)
    """Names of all pods of the cluster that have one, by UID."""

    @property
    def address(self) -> str:
        return self.addresses.node_address

    async def read_objects(
        self, namespace: str, references: Iterable[Reference]
    ) -> dict[Reference, dict[str, bytes] | None]:
        """Read the data of ConfigMaps and Secrets; None for an object that does not exist. Raises ApiError."""
        return {reference: await self._read_object(namespace, *reference) for reference in set(references)}

    async def _read_object(self, namespace: str, kind: str, name: str) -> dict[str, bytes] | None:
        try:
            found = await self.client.get(f"/api/v1/namespaces/{namespace}/{_PLURALS[kind]}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return volumes.decode_object(kind, found)


def format_now() -> str:
    """Format the current time as Kubernetes does: 2026-01-01T00:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
