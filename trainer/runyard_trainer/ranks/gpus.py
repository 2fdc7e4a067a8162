"""Check that the GPUs that a run asks for are there, before any time is spent on it.

The cluster counts devices; torch asks the driver for them. Where torch finds fewer, the run would train on the CPU at
the price of GPUs: such an attempt ends with `ExitCode.GPUS_MISSING` and a message that names the probable cause.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, UserError

VISIBILITY_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
)
"""Variables that may hide GPUs from torch."""

MAX_REASON_LENGTH = 300


@dataclass(frozen=True)
class VisibleGpus:
    """The GPUs that torch sees."""

    count: int
    """How many it can use."""
    build: str
    """torch's version and what it is built for: "torch 2.15.0 is built for CUDA 13.0"."""
    is_cpu_build: bool
    reason: str = ""
    """Why there are none, in torch's words."""


def require_gpus(context: RunContext, env: Mapping[str, str]) -> None:
    """Refuse to go on with fewer GPUs than ranks on this node, where the run asks for any.

    Raises:
        UserError: GPUS_MISSING: there are fewer.
    """
    if context.gpus_per_node == 0:
        return
    visible = find_visible_gpus()
    if visible.count < context.world.local_size:
        raise UserError(explain_missing_gpus(context, visible, env), ExitCode.GPUS_MISSING)


def find_visible_gpus() -> VisibleGpus:
    """Ask torch for GPUs, without creating a CUDA context on one."""
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    is_cpu_build = torch.version.cuda is None and torch.version.hip is None
    build = f"torch {torch.__version__} is built for {'CPUs only' if is_cpu_build else built_for}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the driver's warning, once a rank: `reason` holds it too
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return VisibleGpus(count, build, is_cpu_build, "" if count or is_cpu_build else _read_reason())


def _read_reason() -> str:
    """Return why torch can use no GPU: `is_available` says only that it cannot, `init` says why."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has not written its types
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:MAX_REASON_LENGTH].rstrip(".")
    return ""


def explain_missing_gpus(context: RunContext, visible: VisibleGpus, env: Mapping[str, str]) -> str:
    """Describe how many GPUs were asked for and how many torch sees, the probable cause, and the remedy."""
    asked, ranks = context.gpus_per_node, context.world.local_size
    seen = f"sees {visible.count or 'none'}" + (f" ({visible.reason})" if visible.reason else "")
    facts = [visible.build, *(f"{name} is {env[name]!r}" for name in VISIBILITY_VARIABLES if name in env)]
    return (
        f"compute.gpusPerNode asks for {asked} of {context.gpu_resource_name}, each of this node's ranks needs one "
        f"({ranks} in all), and torch {seen}; {', '.join(facts)}. {_choose_remedy(context, visible)}. To train on CPUs "
        "set compute.gpusPerNode: 0"
    )


def _choose_remedy(context: RunContext, visible: VisibleGpus) -> str:
    if visible.is_cpu_build:
        return "Use an image whose torch is built for GPUs (compute.image)"
    if visible.count >= context.gpus_per_node:
        return f"Set compute.processesPerNode to {visible.count} at most: ranks do not share a GPU"
    return (
        f"Look on this node whether its driver is as new as that torch needs, whether the device plugin of "
        f"{context.gpu_resource_name} runs, and whether containers get its devices (a RuntimeClass, or the vendor's "
        "runtime as the default one); or use an image whose torch fits the driver (compute.image)"
    )
