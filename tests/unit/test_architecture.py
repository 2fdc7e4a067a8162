"""docs/architecture.md names the exit codes and environment variables that the code has, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from runyard.decide.manifests import build_prepare_job, build_train_job
from runyard_trainer.contract.exits import ExitCode

from tests.builders import SETTINGS, make_run, make_spec

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()


def read_section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_exit_codes_are_those_of_the_trainer() -> None:
    rows = re.findall(r"^\| (\d+)[^|]*\| ([A-Z_]+) \| (yes|no)", read_section("Exit codes"), re.MULTILINE)
    assert {name: int(code) for code, name, _ in rows} == {code.name: code.value for code in ExitCode}


def test_the_variables_are_those_of_the_pods() -> None:
    run, spec = make_run(), make_spec()
    in_pods = {
        variable["name"]
        for job in (build_prepare_job(run, spec, SETTINGS), build_train_job(run, spec, SETTINGS, attempt=1))
        for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    rows = re.findall(r"^\| ([A-Z][^|]*) \| (?:train|both) \|", read_section("The environment of a pod"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"[A-Z_]{4,}", row)}
    of_services = {name for name in named if name.startswith(("JUDGE_", "MLFLOW_"))}  # only where a recipe names one
    assert named - of_services - {"RUNYARD_SIMULATED_GPUS"} == in_pods, "the last is the node's, not the operator's"
