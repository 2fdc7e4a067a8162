"""The control planes that all tests here share, and what most tests of the operator start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.local_cluster import Cluster, bring_up, install_crds
from tests.cluster.operator_process import Namespace


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Bring up two nodes of two simulated GPUs each, with the chart's operator. Tests leave nothing behind in it."""
    with bring_up("--nodes", "2", "--gpus-per-node", "2") as shared:
        yield shared


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """Bring up an API server that knows TrainingRuns, without nodes and operator: the tests play their part."""
    with bring_up("--nodes", "0", "--no-operator") as shared:
        install_crds(shared)
        yield shared


@pytest.fixture
def as_administrator(control_plane: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `connect()` find the control plane, as its administrator."""
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def namespace(control_plane: Cluster, tmp_path: Path) -> Namespace:
    """Make a new namespace, for operators of its own."""
    name = f"test-{uuid4().hex[:8]}"
    control_plane.kubectl("create", "namespace", name)
    return Namespace(control_plane, name, tmp_path)
