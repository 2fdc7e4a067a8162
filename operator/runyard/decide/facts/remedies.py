"""What a person can do about a reason, where the message does not say it itself: the trainer's own reports do. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

REMEDIES = {
    "CreateContainerConfigError": "make what the message names; the pod starts by itself then",
    "Error": "look at its log: kubectl logs {pod}",
    "Evicted": "ask for what it uses (compute.resources, compute.sharedMemory), so that the node keeps it free",
    "GpuOutOfMemory": "use more GPUs (compute.nodes, compute.gpusPerNode), or fewer tokens at a time "
    "(training.microBatch, training.sequenceLength)",
    "ImagePull": "check compute.image (or the operator's default image), and that the nodes may pull it",
    "JobDeleted": "to stop a run set spec.suspend: a Job that is deleted is only started again",
    "NodeLost": "look at the node; the run goes on without it",
    "OOMKilled": "give it more memory (compute.resources.memory), or fewer tokens at a time (training.microBatch)",
    "SchedulingGated": "whoever put schedulingGates into the pod has to take them out",
    "StorageUnavailable": "look at the object store and the way to it (spec.storage.endpoint)",
    "Unschedulable": "add or free nodes, or ask for less (compute.nodes, compute.gpusPerNode, compute.resources)",
}

PREPARE_REMEDIES = {
    "Evicted": "ask for what it uses (prepare.resources), so that the node keeps it free",
    "OOMKilled": "give it more memory (prepare.resources.memory)",
    "Unschedulable": "add or free nodes, or ask for less (prepare.resources)",
}
"""Where preparation's pod is another matter than those that train."""


class Saying(NamedTuple):
    """What a reason's message may say, and what to do then."""

    reason: str
    pattern: str
    remedy: str
    prepare_remedy: str = ""
    """Of the pod that prepares, where that is another."""


_PLACEMENT_OF_OTHERS = "Runyard asks for no such thing: look at what a policy, a webhook or Kueue has put into the pod"

SAYINGS = (
    Saying(
        "Unschedulable",
        r"Insufficient |Too many pods|no nodes available",
        REMEDIES["Unschedulable"],
        PREPARE_REMEDIES["Unschedulable"],
    ),
    Saying("Unschedulable", r"were unschedulable", "let pods onto the nodes that are cordoned (kubectl uncordon)"),
    Saying(
        "Unschedulable",
        r"untolerated taint(?! \{node(-role|\.cloudprovider)?\.kubernetes\.io/)",
        "training on GPUs tolerates a taint that is named as compute.gpuResourceName and no other: have the "
        "administrator rename or remove the nodes' taint, or have the toleration put into the pods that carry "
        "runyard.dev/role=train, by a mutating admission policy or, with queue.name, by the ResourceFlavor of Kueue",
        "preparation tolerates no taint, so that it leaves GPU nodes alone: it needs a node without one, or a "
        "toleration that a mutating admission policy puts into the pods that carry runyard.dev/role=prepare",
    ),
    Saying(
        "Unschedulable",
        r"untolerated taint \{node(\.cloudprovider)?\.kubernetes\.io/",
        "Kubernetes has tainted nodes itself as they are not well: look at them (kubectl describe nodes)",
    ),
    Saying(
        "Unschedulable",
        r"(?<!volume )node affinity|node\(s\) didn't match the requested node name",
        "a nodeSelector or node affinity that fits no node is none of Runyard's: label the nodes so, or mend the "
        "policy, the webhook or the ResourceFlavor of Kueue that has put it into the pod",
    ),
    Saying("Unschedulable", r"anti-affinity|pod affinity|topology spread|free ports", _PLACEMENT_OF_OTHERS),
    Saying(
        "Unschedulable",
        r"(?i)volume|persistentvolume|\bpvc\b|free storage|available disk",
        f"{_PLACEMENT_OF_OTHERS}, and at its volumes (kubectl get pvc)",
    ),
    Saying(
        "Evicted",
        r"ephemeral|EmptyDir",
        "models and shards lie in the pod's /tmp: have the administrator raise what the namespace's LimitRange gives "
        "to ephemeral-storage, or use nodes with more disk",
    ),
    Saying(
        "Interrupted",
        r"(?i)timed out after|wait timeout|timed out connecting|connectFullMesh|waiting for clients",
        "if this comes again, the pods of the run cannot reach each other: a NetworkPolicy must let pods with the same "
        "runyard.dev/run-uid speak to each other on every TCP port",
    ),
    Saying(
        "StorageUnavailable",
        r"(?i)certificate|SSL validation",
        "if the object store has a certificate of your own authority, the pods must know that one: put it into the "
        "image (compute.image, or the operator's default image), or have a mutating admission policy mount it and set "
        "AWS_CA_BUNDLE",
    ),
)  # fmt: skip
"""In the order in which they are told; what none of them says is left to the reason."""


def find_remedy(reason: str, pod: str = "", message: str = "", *, is_prepare: bool = False) -> str:
    """What to do; empty where there is nothing more to say.

    Args:
        reason: CamelCase, of a pod, a container or a report.
        pod: its name.
        message: what was said with the reason: what the scheduler missed, how a connection failed.
        is_prepare: whether the pod prepares, and does not train.
    """
    said = [
        (is_prepare and saying.prepare_remedy) or saying.remedy
        for saying in SAYINGS
        if saying.reason == reason and re.search(saying.pattern, message)
    ]
    if said:
        return "; ".join(said)
    general = PREPARE_REMEDIES.get(reason) if is_prepare else None
    return (general or REMEDIES.get(reason, "")).format(pod=pod)
