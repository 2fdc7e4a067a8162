"""GPUs that a run asks for and torch does not see: a real launcher with real ranks, and what is said of each cause."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import FATAL_EXIT_CODES, ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.ranks.gpus import VisibleGpus, explain_missing_gpus, require_gpus

from tests.ports import free_port

LAUNCHER = "import os, sys; from runyard_trainer.launch.__main__ import main; sys.exit(main(os.environ, sys.argv[1:]))"
RECIPE = Recipe.model_validate(
    {
        "model": {"uri": "s3://bucket/model"},
        "data": {"train": [{"uri": "s3://bucket/text/"}]},
        "output": {"uri": "s3://bucket/out"},
    }
)


def test_an_attempt_whose_gpus_are_not_seen_ends_for_good_before_its_ranks_meet_and_says_why_once(
    tmp_path: Path,
) -> None:
    """The other node never comes, and there is no store: neither is asked."""
    recipe, message = tmp_path / "recipe.json", tmp_path / "message"
    recipe.write_text(RECIPE.to_json())
    env = {
        "RUNYARD_NODES": "2",
        "RUNYARD_PROCESSES_PER_NODE": "2",
        "RUNYARD_GPUS_PER_NODE": "2",
        "RUNYARD_GPU_RESOURCE_NAME": "example.com/gpu",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(free_port()),
        "CUDA_VISIBLE_DEVICES": "",
        "RUNYARD_TERMINATION_LOG": str(message),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "runyard_trainer", "train", str(recipe)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False)
    report = PodReport.model_validate_json(message.read_bytes())
    assert (done.returncode, report.exit_code, report.reason) == (71, 71, "GpusMissing"), done.stdout
    assert report.message.startswith(
        "compute.gpusPerNode asks for 2 of example.com/gpu, each of this node's ranks needs one (2 in all), "
        "and torch sees none"
    )
    assert "CUDA_VISIBLE_DEVICES is ''" in report.message
    assert done.stdout.splitlines() == [f"[launch] exit code 71: GpusMissing. {report.message}"]


def make_context(tmp_path: Path, asked: int, ranks: int) -> RunContext:
    env = {"RUNYARD_GPUS_PER_NODE": str(asked), "LOCAL_WORLD_SIZE": str(ranks), "WORLD_SIZE": str(ranks)}
    return RunContext.from_environment({"TMPDIR": str(tmp_path), **env}, RECIPE)


def test_a_run_without_gpus_looks_for_none(tmp_path: Path) -> None:
    require_gpus(make_context(tmp_path, 0, 1), {})


def test_fewer_gpus_than_ranks_end_the_attempt_for_good(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        require_gpus(make_context(tmp_path, 1, 64), {})
    assert error.value.code is ExitCode.GPUS_MISSING
    assert error.value.code in FATAL_EXIT_CODES


CUDA = "torch 2.15.0+cu132 is built for CUDA 13.2"
OLD = VisibleGpus(
    0, CUDA, is_cpu_build=False, reason="The NVIDIA driver on your system is too old (found version 12020)"
)
CAUSES = {
    "a build of torch without GPUs": (
        VisibleGpus(0, "torch 2.15.0+cpu is built for CPUs only", is_cpu_build=True),
        4,
        {},
        "torch sees none; torch 2.15.0+cpu is built for CPUs only. Use an image whose torch is built for GPUs "
        "(compute.image). To train on CPUs set compute.gpusPerNode: 0",
    ),
    "a driver that is too old": (
        OLD,
        4,
        {"NVIDIA_VISIBLE_DEVICES": "void"},
        "torch sees none (The NVIDIA driver on your system is too old (found version 12020)); torch 2.15.0+cu132 is "
        "built for CUDA 13.2, NVIDIA_VISIBLE_DEVICES is 'void'. Look on this node whether its driver is as new",
    ),
    "a node that gives fewer": (
        VisibleGpus(3, CUDA, is_cpu_build=False),
        4,
        {},
        "torch sees 3; torch 2.15.0+cu132 is built for CUDA 13.2. Look on this node",
    ),
    "more ranks than GPUs": (
        VisibleGpus(4, CUDA, is_cpu_build=False),
        8,
        {},
        "(8 in all), and torch sees 4; torch 2.15.0+cu132 is built for CUDA 13.2. Set compute.processesPerNode to 4 at "
        "most: ranks do not share a GPU",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_what_is_said_names_the_numbers_the_cause_and_what_to_do(tmp_path: Path, cause: str) -> None:
    visible, ranks, env, want = CAUSES[cause]
    text = explain_missing_gpus(make_context(tmp_path, 4, ranks), visible, env)
    assert text.startswith("compute.gpusPerNode asks for 4 of nvidia.com/gpu, each of this node's ranks needs one (")
    assert want in text
    assert text.endswith("To train on CPUs set compute.gpusPerNode: 0")
