"""The command lines of etcd, kube-apiserver, kube-controller-manager and kube-scheduler, and their credentials.

All listen on 127.0.0.1. etcd demands a client certificate that only the API server has; the API server knows its users
by random tokens. The controllers of endpoints are off: they refuse pods' addresses in 127.x. Node agents write the
names of pods into /etc/hosts instead.
"""

from __future__ import annotations

import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import yaml

from runyard_local.files import replace_file
from runyard_local.instance import Instance
from runyard_local.process import Command

SERVICE_CIDR = "10.96.0.0/16"

_ADMIN = "runyard-admin"
_CONTROLLER_MANAGER = "system:kube-controller-manager"
_SCHEDULER = "system:kube-scheduler"
_GROUPS = {_ADMIN: "system:masters", _CONTROLLER_MANAGER: "", _SCHEDULER: ""}

_CONTROLLERS_OFF = ("endpoints-controller", "endpointslice-controller", "endpointslice-mirroring-controller")


def build_etcd(instance: Instance, binary: Path) -> Command:
    """Build etcd's command: without fsync, which only matters when the machine itself crashes."""
    certs = instance.certs
    client_url = f"https://127.0.0.1:{instance.ports.etcd}"
    peer_url = f"https://127.0.0.1:{instance.ports.etcd_peer}"
    flags = {
        "data-dir": instance.state / "etcd",
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"default={peer_url}",
        "client-cert-auth": "true",
        "trusted-ca-file": certs / "etcd-ca.crt",
        "cert-file": certs / "etcd.crt",
        "key-file": certs / "etcd.key",
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": certs / "etcd-ca.crt",
        "peer-cert-file": certs / "etcd.crt",
        "peer-key-file": certs / "etcd.key",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }
    return Command("etcd", _argv(binary, flags))


def build_apiserver(instance: Instance, binary: Path) -> Command:
    certs = instance.certs
    flags = {
        "bind-address": "127.0.0.1",
        "secure-port": instance.ports.apiserver,
        "tls-cert-file": certs / "apiserver.crt",
        "tls-private-key-file": certs / "apiserver.key",
        "etcd-servers": f"https://127.0.0.1:{instance.ports.etcd}",
        "etcd-cafile": certs / "etcd-ca.crt",
        "etcd-certfile": certs / "etcd-client.crt",
        "etcd-keyfile": certs / "etcd-client.key",
        "token-auth-file": instance.state / "tokens.csv",
        "authorization-mode": "Node,RBAC",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": certs / "service-accounts.pub",
        "service-account-signing-key-file": certs / "service-accounts.key",
        "service-cluster-ip-range": SERVICE_CIDR,
        "endpoint-reconciler-type": "none",
        "kubelet-client-certificate": certs / "kubelet-client.crt",
        "kubelet-client-key": certs / "kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "default-not-ready-toleration-seconds": 30,
        "default-unreachable-toleration-seconds": 30,
        "profiling": "false",
    }
    return Command("kube-apiserver", _argv(binary, flags))


def build_controller_manager(instance: Instance, binary: Path) -> Command:
    flags = {
        "kubeconfig": _kubeconfig_path(instance, _CONTROLLER_MANAGER),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": instance.certs / "service-accounts.key",
        "root-ca-file": instance.certs / "ca.crt",
        "controllers": ",".join(["*", *(f"-{name}" for name in _CONTROLLERS_OFF)]),
        "node-monitor-grace-period": "20s",
        "node-monitor-period": "2s",
        "kube-api-qps": 500,  # the default of 20 takes seconds to get its own credentials
        "kube-api-burst": 500,
        "leader-elect": "false",
        "secure-port": 0,
    }
    return Command("kube-controller-manager", _argv(binary, flags))


def build_scheduler(instance: Instance, binary: Path) -> Command:
    flags = {"kubeconfig": _kubeconfig_path(instance, _SCHEDULER), "leader-elect": "false", "secure-port": 0}
    return Command("kube-scheduler", _argv(binary, flags))


def is_apiserver_ready(instance: Instance) -> bool:
    """Return whether the API server's /readyz says ok."""
    context = ssl.create_default_context(cafile=str(instance.certs / "ca.crt"))
    # No proxy for loopback, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(f"{instance.apiserver_url}/readyz", timeout=2) as answer:
            return bool(answer.read() == b"ok")
    except (urllib.error.URLError, OSError):
        return False


def write_credentials(instance: Instance) -> None:
    """Make the users' random tokens once, and write a kubeconfig for each, as the port may have changed."""
    tokens = _read_or_make_tokens(instance.state / "tokens.csv")
    for user, token in tokens.items():
        replace_file(_kubeconfig_path(instance, user), _render_kubeconfig(instance, user, token).encode())


def _read_or_make_tokens(path: Path) -> Mapping[str, str]:
    if not path.exists():
        rows = [f'{secrets.token_urlsafe(32)},{user},{user},"{group}"\n' for user, group in _GROUPS.items()]
        replace_file(path, "".join(rows).encode())
    rows = path.read_text().splitlines()
    return {user: token for token, user, *_ in (row.split(",") for row in rows)}


def _kubeconfig_path(instance: Instance, user: str) -> Path:
    if user == _ADMIN:
        return instance.kubeconfig
    return instance.certs / f"{user.removeprefix('system:')}.kubeconfig"


def _render_kubeconfig(instance: Instance, user: str, token: str) -> str:
    cluster = {"server": instance.apiserver_url, "certificate-authority": str(instance.certs / "ca.crt")}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "runyard-local", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "runyard-local", "context": {"cluster": "runyard-local", "user": user}}],
            "current-context": "runyard-local",
        },
        sort_keys=False,
    )


def _argv(binary: Path, flags: Mapping[str, object]) -> tuple[str, ...]:
    return (str(binary), *(f"--{name}={value}" for name, value in flags.items()))
