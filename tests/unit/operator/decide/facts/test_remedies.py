"""What a person is told to do, for what schedulers, kubelets, torch and TLS say."""

from __future__ import annotations

import pytest
from runyard.decide.facts.remedies import find_remedy

PREEMPTION = "preemption: 0/9 nodes are available: 9 Preemption is not helpful for scheduling."
LESS, LESS_TO_PREPARE = "compute.gpusPerNode", "prepare.resources"

UNSCHEDULABLE: dict[str, tuple[str, list[str], list[str]]] = {
    "no room": (
        f"0/2 nodes are available: 2 Insufficient nvidia.com/gpu. no new claims to deallocate, {PREEMPTION}",
        ["add or free nodes, or ask for less", LESS],
        ["taint", "nodeSelector", "policy"],
    ),
    "no nodes": ("no nodes available to schedule pods", ["add or free nodes"], ["taint"]),
    "too many pods": ("0/1 nodes are available: 1 Too many pods.", ["add or free nodes"], ["taint"]),
    "a taint, as told since 1.34": (
        f"0/2 nodes are available: 2 node(s) had untolerated taint(s). {PREEMPTION}",
        ["compute.gpuResourceName", "administrator", "mutating admission policy", "ResourceFlavor"],
        ["ask for less", "add or free"],
    ),
    "a taint, as told before": (
        "0/2 nodes are available: 2 node(s) had untolerated taint {sku: gpu}. preemption: not helpful",
        ["compute.gpuResourceName"],
        ["ask for less"],
    ),
    "a taint here and no room there": (
        "0/9 nodes are available: 2 node(s) had untolerated taint(s), 7 Insufficient cpu, 7 Insufficient memory.",
        ["ask for less", LESS, "compute.gpuResourceName"],
        [],
    ),
    "no room beside the control plane": (
        "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, "
        "3 Insufficient cpu.",
        ["ask for less"],
        ["taint"],
    ),
    "nothing but a control plane": (
        "0/1 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }.",
        ["add or free nodes"],
        ["taint"],
    ),
    "nodes that are not well": (
        "0/2 nodes are available: 2 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.",
        ["kubectl describe nodes"],
        ["ask for less", "compute.gpuResourceName"],
    ),
    "nodes that are cordoned": ("0/2 nodes are available: 2 node(s) were unschedulable.", ["uncordon"], ["ask for"]),
    "a selector": (
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        ["nodeSelector", "ResourceFlavor", "label"],
        ["ask for less", "kubectl get pvc"],
    ),
    "spread": (
        "0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints.",
        ["policy", "webhook"],
        ["ask for less", "nodeSelector"],
    ),
    "a volume in another zone": (
        "0/2 nodes are available: 2 node(s) had volume node affinity conflict.",
        ["kubectl get pvc"],
        ["ask for less", "nodeSelector"],
    ),
    "a claim that is not bound": (
        "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        ["kubectl get pvc"],
        ["ask for less"],
    ),
    "what nobody has heard of": ("0/2 nodes are available: 2 node(s) are shy.", ["add or free nodes"], []),
}


@pytest.mark.parametrize("what", UNSCHEDULABLE)
def test_a_pod_that_no_node_takes_is_told_of_with_what_helps_and_nothing_that_does_not(what: str) -> None:
    message, words, others = UNSCHEDULABLE[what]
    remedy = find_remedy("Unschedulable", message=message)
    assert [word for word in words if word not in remedy] == []
    assert [word for word in others if word in remedy] == []


@pytest.mark.parametrize("what", UNSCHEDULABLE)
def test_nobody_is_told_to_shrink_training_so_that_preparation_fits(what: str) -> None:
    remedy = find_remedy("Unschedulable", message=UNSCHEDULABLE[what][0], is_prepare=True)
    assert remedy
    assert "compute." not in remedy
    assert ("ask for less" in remedy) == (LESS_TO_PREPARE in remedy)


@pytest.mark.parametrize(
    ("reason", "message", "words"),
    [
        ("OOMKilled", "", ["prepare.resources.memory"]),
        ("Evicted", "The node was low on resource: memory.", ["prepare.resources"]),
        ("Error", "", ["kubectl logs cpt-prepare-0-x"]),
        ("ImagePull", "", ["compute.image"]),
    ],
)
def test_what_befalls_preparation_is_mended_there(reason: str, message: str, words: list[str]) -> None:
    remedy = find_remedy(reason, "cpt-prepare-0-x", message, is_prepare=True)
    assert [word for word in words if word not in remedy] == []
    assert "compute.resources" not in remedy


TCP_STORE = "lost a peer: The client socket has timed out after 300000ms while trying to connect to (cpt-a1-0, 23456)."


@pytest.mark.parametrize(
    "message",
    [
        TCP_STORE,
        "lost a peer: Timed out after 301 seconds waiting for clients. 1/2 clients joined.",
        "lost a peer: wait timeout after 300000ms, keys: /default_pg/0//cpu//0/1",
        "lost a peer: Gloo connectFullMesh failed with [gloo/transport/tcp/pair.cc:144] no error",
    ],
)
def test_ranks_that_do_not_find_each_other_are_told_of_with_network_policies(message: str) -> None:
    remedy = find_remedy("Interrupted", message=message)
    assert "NetworkPolicy" in remedy
    assert "every TCP port" in remedy


def test_a_peer_that_went_away_has_nothing_to_do_with_network_policies() -> None:
    message = "lost a peer: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:36307"
    assert find_remedy("Interrupted", message=message) == ""


def test_a_store_with_a_certificate_of_ones_own_is_told_of_with_where_the_authority_goes() -> None:
    message = (
        "cannot read s3://models/fin/run.json: SSL validation failed for https://s3.internal/ [SSL: "
        "CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate"
    )
    remedy = find_remedy("StorageUnavailable", message=message)
    assert "AWS_CA_BUNDLE" in remedy
    assert "compute.image" in remedy
    assert "spec.storage.endpoint" in find_remedy("StorageUnavailable", message="connection refused")


@pytest.mark.parametrize(
    "message",
    [
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
        'Usage of EmptyDir volume "tmp" exceeds the limit "1Gi".',
        "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 2Mi.",
    ],
)
@pytest.mark.parametrize("is_prepare", [False, True])
def test_a_pod_that_was_evicted_for_its_disk_is_not_told_to_ask_for_memory(message: str, *, is_prepare: bool) -> None:
    remedy = find_remedy("Evicted", message=message, is_prepare=is_prepare)
    assert "ephemeral-storage" in remedy
    assert "resources" not in remedy
