"""Under which names pods find each other."""

from __future__ import annotations

from typing import Any

from runyard_local.node.etc_hosts import HostsEntry, find_hostname, find_hosts_entry, render_hosts


def pod(name: str, *, namespace: str = "team", ip: str | None = "127.9.1.2", **spec: Any) -> dict[str, Any]:
    status = {"phase": "Running"} | ({"podIP": ip} if ip else {})
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec, "status": status}


def test_a_pod_finds_itself_and_its_peers() -> None:
    own = pod("tj-0-abc", hostname="tj-0", subdomain="tj")
    peer = HostsEntry("team", "tj-1", "tj", "127.9.0.2")
    stranger = HostsEntry("other", "tj-1", "tj", "127.9.0.3")
    earlier_self = HostsEntry("team", "tj-0", "tj", "127.9.1.2")
    assert render_hosts(own, "127.9.1.2", [stranger, peer, earlier_self]).splitlines()[2:] == [
        "127.9.1.2 tj-0.tj.team.svc.cluster.local tj-0.tj.team.svc tj-0.tj.team tj-0.tj tj-0",
        "127.9.0.2 tj-1.tj.team.svc.cluster.local tj-1.tj.team.svc tj-1.tj.team tj-1.tj",
    ]


def test_a_pod_without_subdomain_finds_itself_only() -> None:
    assert render_hosts(pod("web"), "127.9.1.2", []).endswith("\n127.9.1.2 web\n")
    assert find_hosts_entry(pod("web", hostname="web")) is None


def test_a_pod_has_a_name_from_its_address_to_its_end() -> None:
    spec = {"hostname": "tj-0", "subdomain": "tj"}
    finished = pod("a", **spec)
    finished["status"]["phase"] = "Succeeded"
    found = [
        find_hosts_entry(pod("a", ip=None, **spec)),
        find_hosts_entry(pod("a", **spec)),
        find_hosts_entry(finished),
    ]
    assert found == [None, HostsEntry("team", "tj-0", "tj", "127.9.1.2"), None]


def test_the_hostname_is_the_pods_name_unless_it_says_otherwise() -> None:
    assert [find_hostname(pod("x" * 70)), find_hostname(pod("a", hostname="b"))] == ["x" * 63, "b"]
