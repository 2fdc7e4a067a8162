"""The `runyard` command where packages are missing, as in the operator's image."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_without(missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that cannot import `missing`."""
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['runyard', *{arguments!r}]; "
    argv = [sys.executable, "-c", code + "from runyard.cli.main import app; app()"]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        pytest.param("typer", ("operator", "--help"), id="the operator's image has no typer"),
        pytest.param("runyard_local", ("local", "up"), id="no image has the local control plane"),
        pytest.param("runyard_local", ("local", "env"), id="whichever local command it is"),
    ],
)
def test_one_line_says_what_to_install(missing: str, arguments: tuple[str, ...]) -> None:
    done = run_without(missing, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"runyard: this command needs {missing}, which is not installed here: "
        "run `pip install -e '.[operator,trainer,local]'` in a clone of the repository\n"
    )


def test_other_commands_run_without_the_local_control_plane() -> None:
    done = run_without("runyard_local", "operator", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Run the operator" in done.stdout


def test_a_module_of_our_own_that_is_missing_is_a_defect_and_shown_as_one() -> None:
    done = run_without("runyard.cli.quota", "quota")
    assert "Traceback" in done.stderr
