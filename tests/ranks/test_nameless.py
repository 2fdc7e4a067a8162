"""The trainer under a uid without a name: everything it imports and writes, from the text to the model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runyard_trainer.contract.reports import PodReport

from tests.nameless import NAMELESS
from tests.ports import free_port
from tests.ranks.pretraining import build_recipe, write_corpus


@pytest.mark.parametrize("uid", NAMELESS)
def test_a_uid_without_a_name_prepares_and_trains_on_two_ranks(tmp_path: Path, uid: str) -> None:
    write_corpus(tmp_path / "text")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(build_recipe(tmp_path, "run", steps=2).to_json())
    message = tmp_path / "message"
    env = {
        "RUNYARD_PROCESSES_PER_NODE": "2",
        "MASTER_PORT": str(free_port()),
        "RUNYARD_TERMINATION_LOG": str(message),
        "TMPDIR": str(tmp_path),
    }
    trainer = [sys.executable, "-m", "runyard_trainer"]
    launcher = (
        "import os, sys; from runyard_trainer.launch.__main__ import main; sys.exit(main(os.environ, sys.argv[1:]))"
    )
    for command in ([*trainer, "prepare"], [sys.executable, "-c", launcher, *trainer, "train"]):
        argv = [*NAMELESS[uid].prefix(tmp_path), *command, str(recipe)]
        done = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert PodReport.model_validate_json(message.read_bytes()).result is not None
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
