"""Render /etc/hosts with the names that DNS would give pods of a headless Service (publishNotReadyAddresses). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_CLUSTER_DOMAIN = "cluster.local"
_HEADER = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, order=True)
class HostsEntry:
    """A pod that other pods can find by name."""

    namespace: str
    hostname: str
    subdomain: str
    address: str


def find_hostname(pod: Mapping[str, Any]) -> str:
    """Return the pod's hostname: its spec's, or its name cut to 63 characters."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63]


def find_hosts_entry(pod: Mapping[str, Any]) -> HostsEntry | None:
    """Return the pod's entry; None before it has an address, after its end, and where its spec has no subdomain."""
    spec, status = pod["spec"], pod.get("status", {})
    has_ended = status.get("phase") in ("Succeeded", "Failed")
    if has_ended or not status.get("podIP") or not spec.get("subdomain"):
        return None
    return HostsEntry(pod["metadata"]["namespace"], find_hostname(pod), spec["subdomain"], status["podIP"])


def render_hosts(pod: Mapping[str, Any], address: str, entries: Iterable[HostsEntry]) -> str:
    """Render the /etc/hosts of a pod with this address, which its status may not have yet."""
    namespace, hostname = pod["metadata"]["namespace"], find_hostname(pod)
    subdomain = pod["spec"].get("subdomain")
    own = HostsEntry(namespace, hostname, subdomain, address) if subdomain else None
    lines = [_render(own, hostname) if own else f"{address} {hostname}"]
    others = (entry for entry in entries if entry.namespace == namespace and entry.address != address)
    lines += [_render(entry) for entry in sorted(others)]
    return _HEADER + "\n".join(lines) + "\n"


def _render(entry: HostsEntry, *more_names: str) -> str:
    short = f"{entry.hostname}.{entry.subdomain}"
    service = f"{short}.{entry.namespace}.svc"
    names = (f"{service}.{_CLUSTER_DOMAIN}", service, f"{short}.{entry.namespace}", short, *more_names)
    return " ".join([entry.address, *names])
