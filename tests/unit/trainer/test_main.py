"""The command line: its arguments, its exit code, and what a person is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_trainer.__main__ import main, parse_arguments
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import RECIPE_PATH
from runyard_trainer.contract.reports import PodReport

RECIPE = """
model:
  scratch:
    config: {model_type: llama, rms_norm_eps: 1e-6}
    tokenizer: {train: {vocabSize: 512}}
data: {train: [{uri: "file:///text/"}]}
training: {epochs: 1, learningRate: 5e-5}
output: {uri: "file:///out"}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("text", ["a: [", "just text", ""])
def test_what_is_no_recipe_is_told_so_without_a_traceback(
    path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path.write_text(text)
    assert main([str(path)], {}) == ExitCode.SPEC_ERROR
    told = capfd.readouterr().err
    assert told.startswith(f"error: {path} is no")
    assert "Traceback" not in told


def test_a_rank_that_fails_leaves_its_report_for_the_launcher(path: Path, tmp_path: Path) -> None:
    path.write_text("model: 1")
    code = main(["train", str(path)], {"RANK": "3", "RUNYARD_REPORT_DIR": str(tmp_path)})
    report = PodReport.model_validate_json((tmp_path / "3.json").read_text())
    assert (code, report.exit_code, report.reason) == (64, 64, "SpecError")


def test_in_a_pod_the_recipe_is_the_mounted_one() -> None:
    assert parse_arguments(["train"]) == ("train", Path(RECIPE_PATH))
    assert parse_arguments(["prepare", "a.yaml"]) == ("prepare", Path("a.yaml"))
    assert parse_arguments(["preview", "a.yaml"]) == ("preview", Path("a.yaml"))
    assert parse_arguments(["a.yaml"]) == ("alone", Path("a.yaml"))
    with pytest.raises(UserError, match="usage"):
        parse_arguments(["--help"])
