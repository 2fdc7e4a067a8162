"""A process learns where it stands from its environment, and stands alone without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe

RECIPE = Recipe.model_validate(
    {
        "model": {"uri": "s3://bucket/model"},
        "data": {"train": [{"uri": "s3://bucket/text/"}]},
        "output": {"uri": "s3://bucket/out"},
    }
)


def test_without_an_environment_a_process_is_a_world_of_one_named_after_its_recipe(tmp_path: Path) -> None:
    context = RunContext.from_environment({"TMPDIR": str(tmp_path)}, RECIPE)
    assert context.run_uid == f"alone-{RECIPE.digest}"
    assert (context.namespace, context.attempt, context.world) == ("alone", 1, World(0, 1, 0, 1))
    assert context.scratch_dir.is_dir()
    assert context.scratch_dir.is_relative_to(tmp_path)


def test_what_the_operator_and_the_launcher_set_is_taken(tmp_path: Path) -> None:
    env = {
        "TMPDIR": str(tmp_path),
        "RUNYARD_RUN_UID": "uid",
        "RUNYARD_RUN_NAME": "run",
        "RUNYARD_NAMESPACE": "team",
        "RUNYARD_ATTEMPT": "3",
        "RUNYARD_POD_IP": "10.0.0.7",
        "RUNYARD_GRACE_SECONDS": "30",
        "MASTER_ADDR": "run-a3-0.run-ranks",
        "MASTER_PORT": "20123",
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "RUNYARD_GPUS_PER_NODE": "8",
        "RUNYARD_GPU_RESOURCE_NAME": "amd.com/gpu",
        "RUNYARD_STALL_SECONDS": "600",
        "RUNYARD_ON_STALL": "Notify",
    }
    context = RunContext.from_environment(env, RECIPE)
    assert context == RunContext(
        run_uid="uid",
        namespace="team",
        run_name="run",
        attempt=3,
        world=World(5, 8, 1, 4),
        pod_ip="10.0.0.7",
        scratch_dir=context.scratch_dir,
        grace_s=30,
        master_addr="run-a3-0.run-ranks",
        master_port=20123,
        gpus_per_node=8,
        gpu_resource_name="amd.com/gpu",
        stall_s=600,
        restarts_on_stall=False,
    )


def test_gpus_that_the_node_simulates_need_not_be_there(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path), "RUNYARD_GPUS_PER_NODE": "8", "RUNYARD_SIMULATED_GPUS": "1"}
    assert RunContext.from_environment(env, RECIPE).gpus_per_node == 0


@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({"WORLD_SIZE": "many"}, "environment variable WORLD_SIZE is 'many': expected a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE do not fit together"),
    ],
)
def test_an_environment_that_makes_no_world_is_refused(tmp_path: Path, env: dict[str, str], want: str) -> None:
    with pytest.raises(UserError, match=want):
        RunContext.from_environment({"TMPDIR": str(tmp_path), **env}, RECIPE)
