"""Find out which parts of an instance run, for `runyard local status`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runyard_local.chart import is_operator_available
from runyard_local.instance import Instance
from runyard_local.kubectl import Kubectl
from runyard_local.lifecycle import is_node_ready
from runyard_local.servers import controlplane, s3server


@dataclass(frozen=True)
class Part:
    """A server, a node or the operator: one line of the table."""

    name: str
    state: str
    """`ready`; `running`: alive but not ready; `stopped`."""
    pid: int | None
    address: str
    log: str


def read_status(instance: Instance) -> list[Part]:
    """Read the state of every part, the operator last."""
    kubectl = Kubectl(instance.kubectl, instance.kubeconfig)
    api_is_ready = controlplane.is_apiserver_ready(instance)
    nodes = (kubectl.get("nodes") if api_is_ready else None) or {"items": []}
    ready_nodes = {node["metadata"]["name"] for node in nodes["items"] if is_node_ready(node)}
    servers: list[tuple[str, bool, str]] = [
        ("etcd", True, f"https://127.0.0.1:{instance.ports.etcd}"),
        ("kube-apiserver", api_is_ready, instance.apiserver_url),
        ("kube-controller-manager", True, ""),
        ("kube-scheduler", True, ""),
        ("versitygw", s3server.is_s3_ready(instance), instance.s3_endpoint),
    ]
    servers += [(name, name in ready_nodes, "") for name in instance.node_names]
    parts = [_read_part(instance, *server) for server in servers]
    if api_is_ready:
        state = "ready" if is_operator_available(kubectl) else "stopped"
        parts.append(Part("operator", state, None, "", ""))
    return parts


def is_healthy(parts: list[Part]) -> bool:
    """Return whether every server and node is ready. The operator is optional."""
    return all(part.state == "ready" for part in parts if part.name != "operator")


def _read_part(instance: Instance, name: str, is_ready: bool, address: str) -> Part:
    identity = instance.processes.find(name)
    state = "stopped" if identity is None else "ready" if is_ready else "running"
    log: Path = instance.processes.log_path(name)
    return Part(name, state, identity.pid if identity else None, address, str(log))
