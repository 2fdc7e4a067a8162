"""The pinned programs of the control plane: found, or built into the cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Binaries:
    """Paths of the programs."""

    etcd: Path
    apiserver: Path
    controller_manager: Path
    scheduler: Path
    kubectl: Path
    versitygw: Path
    helm: Path


def find_or_build() -> Binaries:
    """Every program."""
    cache = Path("~/.cache/runyard/bin").expanduser()
    named = os.environ.get("RUNYARD_BIN")

    def find(module: str, name: str) -> Path:
        return Path(named, name) if named else cache / module / name

    return Binaries(
        find("etcd-3.7.3", "etcd"),
        find("kubernetes-1.37.2", "kube-apiserver"),
        find("kubernetes-1.37.2", "kube-controller-manager"),
        find("kubernetes-1.37.2", "kube-scheduler"),
        find("kubernetes-1.37.2", "kubectl"),
        find("versitygw-1.8.0", "versitygw"),
        find("helm-3.22.0", "helm"),
    )
