"""Where the next attempt runs: with how many nodes, and without which."""

from __future__ import annotations

from runyard.api.trainingrun import Compute, LastFailure, TrainingRunStatus
from runyard.decide.facts.endings import Severity
from runyard.decide.facts.remedies import Blame, find_response

MAX_FAILURES_OF_A_NODE = 2


def blame_node(status: TrainingRunStatus, severity: Severity, failure: LastFailure) -> dict[str, object]:
    """Return the changes of status where an attempt has failed on a node, or was lost with it."""
    blame = find_response(failure.reason).blames_node
    is_its_fault = blame is Blame.ALWAYS or (blame is Blame.IF_FAILED and severity is Severity.FAILURE)
    if failure.node is None or not is_its_fault:
        return {}
    counts = status.node_failures | {failure.node: status.node_failures.get(failure.node, 0) + 1}
    return {
        "node_failures": counts,
        "avoided_nodes": sorted(node for node, count in counts.items() if count >= MAX_FAILURES_OF_A_NODE),
    }


def shrink(compute: Compute, nodes: int, num_scheduled: int) -> int | None:
    """Return with how many nodes to go on where only `num_scheduled` of `nodes` pods found room; None: with all.

    Args:
        compute: as the spec has it.
        nodes: what the attempt that could not start asked for.
        num_scheduled: how many of its pods found a node.
    """
    if num_scheduled >= nodes:
        return None if nodes == compute.nodes else nodes  # room is not what was missing
    smaller = max(min(compute.min_nodes or compute.nodes, compute.nodes), num_scheduled)
    return smaller if smaller < compute.nodes else None
