"""The operator reads its settings from the environment, and starts with its own extra alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from runyard.main import read_config
from runyard_trainer.contract.exits import UserError


def test_the_environment_becomes_settings() -> None:
    config = read_config(
        {
            "RUNYARD_TRAINER_IMAGE": "trainer:1",
            "RUNYARD_STORAGE_ENDPOINT": "",
            "RUNYARD_STORAGE_ADDRESSING": "path",
            "RUNYARD_PREPARE_CPU": "500m",
            "RUNYARD_PREPARE_MEMORY": "",
            "RUNYARD_NAMESPACES": "a, b",
            "POD_NAME": "op-1",
            "POD_NAMESPACE": "system",
            "RUNYARD_PROGRESS_INTERVAL_SECONDS": "1.5",
        }
    )
    assert (config.settings.trainer_image, config.settings.storage_addressing) == ("trainer:1", "path")
    assert config.settings.storage_endpoint is None
    assert (config.settings.prepare_cpu, config.settings.prepare_memory) == ("500m", "4Gi")
    assert config.namespaces == ("a", "b")
    assert (config.lease.namespace, config.lease.identity) == ("system", "op-1")
    assert config.settings.progress_interval_s == 1.5


@pytest.mark.parametrize(
    ("environment", "want"),
    [
        ({}, "RUNYARD_TRAINER_IMAGE is not set"),
        ({"RUNYARD_TRAINER_IMAGE": "x", "RUNYARD_PROBE_PORT": "http"}, "RUNYARD_PROBE_PORT is 'http'"),
        ({"RUNYARD_TRAINER_IMAGE": "x", "RUNYARD_STORAGE_ADDRESSING": "dns"}, "RUNYARD_STORAGE_ADDRESSING is 'dns'"),
    ],
)
def test_a_bad_environment_is_an_error_that_names_the_variable(environment: dict[str, str], want: str) -> None:
    with pytest.raises(UserError, match=want):
        read_config(environment)


def test_the_operator_starts_with_nothing_installed_but_its_own_extra() -> None:
    not_of_the_operator = ["torch", "transformers", "boto3", "numpy", "typer", "rich", "cryptography", "psutil"]
    program = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {not_of_the_operator!r}:
            raise ImportError(name + " is not in the operator's image")

sys.meta_path.insert(0, Refuse())
import runyard.main
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
