"""What a person can do about a reason, where the message does not say it itself: the trainer's own reports do. Pure."""

from __future__ import annotations

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
    "StorageUnavailable": "look at the object store and the way to it (spec.storage.endpoint)",
    "Unschedulable": "add or free nodes, or ask for less (compute.nodes, compute.gpusPerNode, compute.resources)",
}


def find_remedy(reason: str, pod: str = "") -> str:
    """What to do; empty where there is nothing more to say."""
    return REMEDIES.get(reason, "").format(pod=pod)
