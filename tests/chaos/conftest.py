"""A control plane for faults: its API server keeps an audit log, and nobody but the tests plays a node there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from runyard_local.process import Command
from runyard_local.programs.binaries import find_or_build
from runyard_local.servers import controlplane

from tests.cluster.local_cluster import Cluster, bring_up, install_crds
from tests.waiting import wait_until

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch", "delete"],
            "userGroups": ["system:masters"],
        },
        {"level": "None"},
    ],
}


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """Start an API server that knows TrainingRuns, without nodes and operator, with an audit log of what we write."""
    with bring_up("--nodes", "0", "--no-operator") as cluster:
        start_audit(cluster)
        install_crds(cluster)
        yield cluster


def start_audit(cluster: Cluster) -> None:
    """Start the API server anew with an audit log."""
    instance = cluster.instance
    policy = instance.state / "audit-policy.yaml"
    policy.write_text(yaml.safe_dump(AUDIT_POLICY))
    plain = controlplane.build_apiserver(instance, find_or_build().apiserver)
    flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit_log(cluster)}", "--audit-log-mode=blocking")
    instance.processes.stop(plain.name, grace_s=10)
    instance.processes.start(Command(plain.name, (*plain.argv, *flags)))
    wait_until(lambda: controlplane.is_apiserver_ready(instance), 60)


def audit_log(cluster: Cluster) -> Path:
    return cluster.instance.state / "audit.log"
