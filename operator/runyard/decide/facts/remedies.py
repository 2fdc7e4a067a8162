"""What follows from the reason of a failure: what a person can do about it, and whether its node is suspect.

One table, `RESPONSES`: each reason that the trainer reports or the operator finds has its row, else a test fails.
Whether a reason is fatal depends on the exit code alone (`FATAL_EXIT_CODES`), which covers those of newer trainers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from runyard_trainer.contract.exits import Reason

from runyard.api.reasons import FailureReason


class Blame(Enum):
    """The cases in which an attempt's end counts against the node that it happened on."""

    NEVER = auto()
    IF_FAILED = auto()
    """Not where its pod was taken away or told to stop."""
    ALWAYS = auto()


@dataclass(frozen=True)
class Case:
    """A remedy for failures whose message matches a pattern."""

    pattern: str
    remedy: str
    prepare_remedy: str = ""
    """For the pod that prepares, where that is another."""

    def choose(self, *, is_prepare: bool) -> str:
        """Return the remedy for the pod that prepares, or for one that trains."""
        return (is_prepare and self.prepare_remedy) or self.remedy


@dataclass(frozen=True)
class Response:
    """A row of the table: what follows from a reason."""

    remedy: str = ""
    """What to do; empty where the message says it, as those of the trainer's fatal errors do."""
    prepare_remedy: str = ""
    """For the pod that prepares, where that is another."""
    cases: tuple[Case, ...] = ()
    """Remedies by message. All that match are shown, in this order, instead of `remedy`."""
    blames_node: Blame = Blame.IF_FAILED


_MESSAGE_SAYS_IT = Response()
_NOTHING_TO_DO = Response()

_LESS = "add or free nodes, or ask for less (compute.nodes, compute.gpusPerNode, compute.resources)"
_LESS_TO_PREPARE = "add or free nodes, or ask for less (prepare.resources)"
_PLACEMENT_OF_OTHERS = "Runyard asks for no such thing: look at what a policy, a webhook or Kueue has put into the pod"

_UNSCHEDULABLE_CASES = (
    Case(r"Insufficient |Too many pods|no nodes available", _LESS, _LESS_TO_PREPARE),
    Case(r"were unschedulable", "let pods onto the nodes that are cordoned (kubectl uncordon)"),
    Case(
        r"untolerated taint(?! \{node(-role|\.cloudprovider)?\.kubernetes\.io/)",
        "training on GPUs tolerates a taint that is named as compute.gpuResourceName and no other: have the "
        "administrator rename or remove the nodes' taint, or have the toleration put into the pods that carry "
        "runyard.dev/role=train, by a mutating admission policy or, with queue.name, by the ResourceFlavor of Kueue",
        "preparation tolerates no taint, so that it leaves GPU nodes alone: it needs a node without one, or a "
        "toleration that a mutating admission policy puts into the pods that carry runyard.dev/role=prepare",
    ),
    Case(
        r"untolerated taint \{node(\.cloudprovider)?\.kubernetes\.io/",
        "Kubernetes has tainted nodes itself as they are not well: look at them (kubectl describe nodes)",
    ),
    Case(
        r"(?<!volume )node affinity|node\(s\) didn't match the requested node name",
        "a nodeSelector or node affinity that fits no node is none of Runyard's: label the nodes so, or mend the "
        "policy, the webhook or the ResourceFlavor of Kueue that has put it into the pod",
    ),
    Case(r"anti-affinity|pod affinity|topology spread|free ports", _PLACEMENT_OF_OTHERS),
    Case(
        r"(?i)volume|persistentvolume|\bpvc\b|free storage|available disk",
        f"{_PLACEMENT_OF_OTHERS}, and at its volumes (kubectl get pvc)",
    ),
)

_EVICTED_CASES = (
    Case(
        r"ephemeral|EmptyDir",
        "models and shards lie in the pod's /tmp: have the administrator raise what the namespace's LimitRange gives "
        "to ephemeral-storage, or use nodes with more disk",
    ),
)

_INTERRUPTED_CASES = (
    Case(
        r"(?i)timed out after|wait timeout|timed out connecting|connectFullMesh|waiting for clients",
        "if this comes again, the pods of the run cannot reach each other: a NetworkPolicy must let pods with the same "
        "runyard.dev/run-uid speak to each other on every TCP port",
    ),
)

_STORAGE_CASES = (
    Case(
        r"(?i)certificate|SSL validation",
        "if the object store has a certificate of your own authority, the pods must know that one: put it into the "
        "image (compute.image, or the operator's default image), or have a mutating admission policy mount it and set "
        "AWS_CA_BUNDLE",
    ),
)

RESPONSES: dict[Reason | FailureReason, Response] = {
    Reason.COMPLETED: _NOTHING_TO_DO,
    Reason.ERROR: Response("look at its log: kubectl logs {pod}"),
    Reason.SPEC_ERROR: _MESSAGE_SAYS_IT,
    Reason.DATA_ERROR: _MESSAGE_SAYS_IT,
    Reason.STORAGE_ERROR: _MESSAGE_SAYS_IT,
    Reason.STORAGE_UNAVAILABLE: Response(
        "look at the object store and the way to it (spec.storage.endpoint)",
        cases=_STORAGE_CASES,
        blames_node=Blame.NEVER,  # that rank was only the first to say it
    ),
    Reason.OUTPUT_TAKEN: _MESSAGE_SAYS_IT,
    Reason.GENERAL_LOSS_EXCEEDED: _MESSAGE_SAYS_IT,
    Reason.NON_FINITE: _MESSAGE_SAYS_IT,
    Reason.GPUS_MISSING: _MESSAGE_SAYS_IT,
    Reason.GPU_OUT_OF_MEMORY: Response(
        "use more GPUs (compute.nodes, compute.gpusPerNode), or fewer tokens at a time "
        "(training.microBatch, training.sequenceLength)"
    ),
    Reason.OOM_KILLED: Response(
        "give it more memory (compute.resources.memory), or fewer tokens at a time (training.microBatch)",
        prepare_remedy="give it more memory (prepare.resources.memory)",
    ),
    Reason.INTERRUPTED: Response(cases=_INTERRUPTED_CASES),
    Reason.STALLED: Response(blames_node=Blame.NEVER),  # that rank was only the first to say it
    FailureReason.CONTAINER_STATUS_UNKNOWN: _NOTHING_TO_DO,
    FailureReason.CREATE_CONTAINER_CONFIG_ERROR: Response("make what the message names; the pod starts by itself then"),
    FailureReason.CREATE_CONTAINER_ERROR: _MESSAGE_SAYS_IT,
    FailureReason.DISRUPTION_TARGET: _NOTHING_TO_DO,
    FailureReason.EVICTED: Response(
        "ask for what it uses (compute.resources, compute.sharedMemory), so that the node keeps it free",
        prepare_remedy="ask for what it uses (prepare.resources), so that the node keeps it free",
        cases=_EVICTED_CASES,
    ),
    FailureReason.IMAGE_PULL: Response(
        "check compute.image (or the operator's default image), and that the nodes may pull it"
    ),
    FailureReason.JOB_DELETED: Response("to stop a run set spec.suspend: a Job that is deleted is only started again"),
    FailureReason.NODE_LOST: Response("look at the node; the run goes on without it", blames_node=Blame.ALWAYS),
    FailureReason.POD_DELETED: _NOTHING_TO_DO,
    FailureReason.POD_FAILED: _NOTHING_TO_DO,
    FailureReason.SCHEDULING_GATED: Response("whoever put schedulingGates into the pod has to take them out"),
    FailureReason.STARTUP_TIMEOUT: _MESSAGE_SAYS_IT,
    FailureReason.UNSCHEDULABLE: Response(_LESS, prepare_remedy=_LESS_TO_PREPARE, cases=_UNSCHEDULABLE_CASES),
}

_BY_TEXT = {reason.value: response for reason, response in RESPONSES.items()}


def find_response(reason: str) -> Response:
    """Return the row of a reason; an empty one for a reason that a newer trainer or Kubernetes alone knows."""
    return _BY_TEXT.get(reason, Response())


def find_remedy(reason: str, pod: str = "", message: str = "", *, is_prepare: bool = False) -> str:
    """Return what to do; empty where there is nothing more to say.

    Args:
        reason: CamelCase, of a pod, a container or a report.
        pod: its name.
        message: that came with the reason: what the scheduler missed, how a connection failed.
        is_prepare: whether the pod prepares, and does not train.
    """
    response = find_response(reason)
    matching = [case.choose(is_prepare=is_prepare) for case in response.cases if re.search(case.pattern, message)]
    if matching:
        return "; ".join(matching)
    return ((is_prepare and response.prepare_remedy) or response.remedy).format(pod=pod)
