"""Whether the GPUs that a run asks for are there, before anything is spent on it.

The cluster counts devices and torch asks the driver for them. Where torch finds fewer, training would go on by the CPU
at the price of GPUs: such an attempt ends with `ExitCode.GPUS_MISSING`, and says all that is needed to find out why.
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
"""Each may hide GPUs from torch."""

MAX_REASON_LENGTH = 300


@dataclass(frozen=True)
class Sight:
    """What torch sees."""

    number: int
    """GPUs that it can use."""
    build: str
    """Of torch: its version, and what it is built for."""
    is_cpu_build: bool
    reason: str = ""
    """Why there are none, in torch's words."""


def require_gpus(context: RunContext, env: Mapping[str, str]) -> None:
    """Find as many GPUs as there are ranks on this node, where the run asks for any.

    Raises:
        UserError: GPUS_MISSING: there are fewer.
    """
    if context.gpus_per_node == 0:
        return
    sight = look_for_gpus()
    if sight.number < context.world.local_size:
        raise UserError(explain_missing_gpus(context, sight, env), ExitCode.GPUS_MISSING)


def look_for_gpus() -> Sight:
    """Ask torch; where there is a GPU, nothing is made on it."""
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    is_cpu_build = torch.version.cuda is None and torch.version.hip is None
    build = f"torch {torch.__version__} is built for {'CPUs only' if is_cpu_build else built_for}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the driver: `reason` has it, and is told once instead of by each rank
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Sight(number, build, is_cpu_build, "" if number or is_cpu_build else _ask_for_the_reason())


def _ask_for_the_reason() -> str:
    """`is_available` keeps it to itself."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch has not written its types
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:MAX_REASON_LENGTH].rstrip(".")
    return ""


def explain_missing_gpus(context: RunContext, sight: Sight, env: Mapping[str, str]) -> str:
    """How many were asked for and how many are seen, what is known of the cause, and what to do."""
    asked, ranks = context.gpus_per_node, context.world.local_size
    seen = f"sees {sight.number or 'none'}" + (f" ({sight.reason})" if sight.reason else "")
    facts = [sight.build, *(f"{name} is {env[name]!r}" for name in VISIBILITY_VARIABLES if name in env)]
    return (
        f"compute.gpusPerNode asks for {asked} of {context.gpu_resource_name}, each of this node's ranks needs one "
        f"({ranks} in all), and torch {seen}; {', '.join(facts)}. {_choose_remedy(context, sight)}. To train on CPUs "
        "set compute.gpusPerNode: 0"
    )


def _choose_remedy(context: RunContext, sight: Sight) -> str:
    if sight.is_cpu_build:
        return "Use an image whose torch is built for GPUs (compute.image)"
    if sight.number >= context.gpus_per_node:
        return f"Set compute.processesPerNode to {sight.number} at most: ranks do not share a GPU"
    return (
        f"Look on this node whether its driver is as new as that torch needs, whether the device plugin of "
        f"{context.gpu_resource_name} runs, and whether containers get its devices (a RuntimeClass, or the vendor's "
        "runtime as the default one); or use an image whose torch fits the driver (compute.image)"
    )
