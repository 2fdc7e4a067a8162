"""The values that a process of a run reads from its environment, frozen; with defaults for a run without an operator.

`__main__` and `launch` pass the real environment in; nothing else reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import MLFLOW_VARIABLES


@dataclass(frozen=True)
class World:
    """This process among the ranks of the run. The defaults are a world of one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """This process among the ranks of its node."""
    local_size: int = 1
    """Number of ranks on this node."""

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.size and 0 <= self.local_rank < self.local_size):
            raise ValueError(f"no such rank: {self}")


@dataclass(frozen=True)
class RunContext:
    """The run that a process belongs to, besides the recipe."""

    run_uid: str
    """UID of the TrainingRun; `alone-<recipe digest>` without one, so that a rerun continues the run before."""
    namespace: str
    run_name: str
    attempt: int
    world: World
    pod_ip: str
    """Address that this process's servers bind to."""
    scratch_dir: Path
    """Folder on the node's disk, shared by all ranks of the node."""
    grace_s: float
    """Seconds between SIGTERM and SIGKILL."""
    master_addr: str
    """Host name or address at which rank 0's rendezvous listens."""
    master_port: int
    """Port of the rendezvous; 0 where none was given: a world of one needs none."""
    gpus_per_node: int = 0
    """GPUs that must be there on each node; 0: the run may train on the CPU."""
    gpu_resource_name: str = "nvidia.com/gpu"
    """Name of the cluster's resource that counts GPUs."""
    stall_s: float = 0.0
    """Seconds after which a step that has not ended counts as hanging; 0: never."""
    restarts_on_stall: bool = True
    """Whether the attempt ends when a step hangs; otherwise that is only reported."""
    judge_api_key: str | None = field(default=None, repr=False)
    """Bearer token for the judge's endpoint."""
    mlflow_credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Credentials for MLflow's server, by the name of their variable."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str], recipe: Recipe) -> RunContext:
        """Read the variables of docs/architecture.md, and torchrun's; create the scratch folder.

        Raises:
            UserError: a number is not one, or RANK and WORLD_SIZE do not fit together.
        """
        alone = f"alone-{recipe.digest}"
        run_uid = env.get("RUNYARD_RUN_UID") or alone
        temporary_dir = env.get("TMPDIR") or "/tmp"  # noqa: S108 - an emptyDir in a pod; alone, the folder in it is this user's
        scratch_dir = Path(temporary_dir) / f"runyard-{os.getuid()}" / run_uid
        scratch_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(
            run_uid=run_uid,
            namespace=env.get("RUNYARD_NAMESPACE") or "alone",
            run_name=env.get("RUNYARD_RUN_NAME") or alone,
            attempt=_read_int(env, "RUNYARD_ATTEMPT", 1),
            world=_read_world(env),
            pod_ip=env.get("RUNYARD_POD_IP") or "127.0.0.1",
            scratch_dir=scratch_dir,
            grace_s=_read_int(env, "RUNYARD_GRACE_SECONDS", 120),
            master_addr=env.get("MASTER_ADDR") or "127.0.0.1",
            master_port=_read_int(env, "MASTER_PORT", 0),
            gpus_per_node=0 if env.get("RUNYARD_SIMULATED_GPUS") else _read_int(env, "RUNYARD_GPUS_PER_NODE", 0),
            gpu_resource_name=env.get("RUNYARD_GPU_RESOURCE_NAME") or "nvidia.com/gpu",
            stall_s=_read_int(env, "RUNYARD_STALL_SECONDS", 0),
            restarts_on_stall=env.get("RUNYARD_ON_STALL", "Restart") == "Restart",
            judge_api_key=env.get("JUDGE_API_KEY") or None,
            mlflow_credentials={name: env[name] for name in MLFLOW_VARIABLES if env.get(name)},
        )


def _read_world(env: Mapping[str, str]) -> World:
    try:
        return World(
            rank=_read_int(env, "RANK", 0),
            size=_read_int(env, "WORLD_SIZE", 1),
            local_rank=_read_int(env, "LOCAL_RANK", 0),
            local_size=_read_int(env, "LOCAL_WORLD_SIZE", 1),
        )
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE do not fit together: {error}") from error


def _read_int(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"environment variable {name} is {text!r}: expected a whole number") from error
