"""`python -m runyard_trainer`: train a recipe alone, or be a part of a run in a cluster.

    python -m runyard_trainer recipe.yaml          prepare and train, here
    torchrun -m runyard_trainer recipe.yaml        the same on several ranks
    python -m runyard_trainer prepare [recipe]     prepare only
    python -m runyard_trainer train [recipe]       one rank of an attempt
    python -m runyard_trainer preview recipe.yaml  what it will train on, as JSON on stdout; writes nothing

In a pod the recipe is a mounted file. The exit code says how it ended (`contract.exits.ExitCode`); mistakes that a
person can mend are printed to stderr without a traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, Interrupted, Reason, UserError
from runyard_trainer.contract.reading import read_recipe
from runyard_trainer.contract.recipe import RECIPE_PATH
from runyard_trainer.contract.reports import TERMINATION_LOG_PATH, PodReport
from runyard_trainer.storage.base import StorageUnavailable

USAGE = (
    "usage: python -m runyard_trainer recipe.yaml | prepare [recipe.yaml] | train [recipe.yaml] | preview recipe.yaml"
)


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the command, leave a report for the launcher or Kubernetes, and return the exit code."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers reads it when it is imported
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    try:
        command, path = parse_arguments(arguments)
    except UserError as error:
        _print_to_stderr(str(error))
        return error.code
    report = run_reported(lambda: COMMANDS[command](path, env))
    write_report(report, report_path(command, env))
    return report.exit_code


def parse_arguments(arguments: Sequence[str]) -> tuple[str, Path]:
    """Return the command and the path of its recipe.

    Raises:
        UserError: the arguments are wrong; the message is the usage.
    """
    match arguments:
        case ["prepare" | "train" as command]:
            return command, Path(RECIPE_PATH)
        case ["prepare" | "train" as command, path]:
            return command, Path(path)
        case ["preview" as command, path]:
            return command, Path(path)
        case [path] if not path.startswith("-"):
            return "alone", Path(path)
    raise UserError(USAGE)


def run_reported(work: Callable[[], PodReport]) -> PodReport:
    """Do the work, and report how it ended; a failure is printed to stderr too."""
    try:
        return work()
    except UserError as error:
        _print_to_stderr(f"error: {error}")
        return PodReport(reason=error.code.reason, message=str(error), exit_code=error.code)
    except Interrupted as error:
        _print_to_stderr(f"interrupted: {error}")
        code = ExitCode.INTERRUPTED
        return PodReport(reason=code.reason, message=str(error), exit_code=code)
    except StorageUnavailable as error:
        _print_to_stderr(f"error: {error}")
        return PodReport(reason=Reason.STORAGE_UNAVAILABLE, message=str(error)[:1000], exit_code=ExitCode.FAILED)
    except Exception as error:  # noqa: BLE001 - the last one to see it: it becomes traceback, report and exit code
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        is_out_of_memory = type(error).__name__ == "OutOfMemoryError"  # torch's, whose import would take seconds
        return PodReport(
            reason=Reason.GPU_OUT_OF_MEMORY if is_out_of_memory else Reason.ERROR,
            message=message[:1000],
            exit_code=ExitCode.FAILED,
            log_tail=traceback.format_exc(),
        )


# ------------------------------------------------------------------------------------------------------------- commands


def prepare_command(path: Path, env: Mapping[str, str]) -> PodReport:
    """Prepare the data of a run."""
    from runyard_trainer.prepare import prepare  # deferred: a mistake in the recipe shows without loading torch

    recipe = read_recipe(path)
    return prepare(recipe, RunContext.from_environment(env, recipe))


def train_command(path: Path, env: Mapping[str, str]) -> PodReport:
    """Train as one rank of an attempt."""
    recipe = read_recipe(path)
    context = RunContext.from_environment(env, recipe)
    if recipe.training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used

    from runyard_trainer.ranks.gpus import require_gpus  # deferred, as above

    try:
        require_gpus(context, env)
    except UserError as error:
        if report_path("train", env) is None:
            raise
        # not printed here: all ranks of the node find the same, and the launcher prints it once
        return PodReport(reason=error.code.reason, message=str(error), exit_code=error.code)

    from runyard_trainer.train import train  # deferred, as above

    def end_process(report: PodReport) -> None:
        write_report(report, report_path("train", env))
        _end_process(report.exit_code)

    return PodReport(reason=Reason.COMPLETED, result=train(recipe, context, end_process))


def alone_command(path: Path, env: Mapping[str, str]) -> PodReport:
    """Prepare and train here. Rank 0 prepares; the others wait for it where they join."""
    if env.get("RANK", "0") == "0":
        prepare_command(path, env)
    report = train_command(path, env)
    if env.get("RANK", "0") == "0" and report.result is not None:
        _print_to_stderr(f"model:  {report.result.uri}\nreport: {report.result.report}")
    return report


def preview_command(path: Path, _: Mapping[str, str]) -> PodReport:
    """Print what a run will train on as JSON, without a log."""
    logging.getLogger().setLevel(logging.WARNING)
    from runyard_trainer.preparation.preview import preview_run  # deferred, as above

    print(preview_run(read_recipe(path)).to_json())  # noqa: T201 - the result
    return PodReport(reason=Reason.COMPLETED)


COMMANDS = {"alone": alone_command, "preview": preview_command, "prepare": prepare_command, "train": train_command}


# --------------------------------------------------------------------------------------------------------------- report


def report_path(command: str, env: Mapping[str, str]) -> Path | None:
    """Return where the report goes: a rank's to its launcher, prepare's to the pod's termination log; None alone."""
    if command == "train" and (report_dir := env.get("RUNYARD_REPORT_DIR")):
        return Path(report_dir) / f"{env.get('RANK', '0')}.json"
    if command == "prepare":
        return Path(env.get("RUNYARD_TERMINATION_LOG", TERMINATION_LOG_PATH))
    return None


def write_report(report: PodReport, path: Path | None) -> None:
    """Write the report, unless its folder is absent or not writable: outside of a pod nobody looks for it."""
    if path is None or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        return
    path.write_text(report.to_json())


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - for the person who reads the log


def _end_process(code: int) -> None:
    """End without the interpreter's teardown: in it, threads of gloo or NCCL that still wait for a lost peer abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end_process(main(sys.argv[1:], os.environ))
