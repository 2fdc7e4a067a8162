"""`runyard preview`: show what a run will train on, row by row, before it exists.

The trainer reads the rows, in a process of its own. S3 is reached with the credentials in the environment, as the AWS
tools do it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.reading import describe_mistakes, read_document
from runyard_trainer.contract.recipe import Recipe

from runyard.api.trainingrun import KIND, TrainingRunSpec

_EXTRA_ROWS = ("documents", "tokens", "truncated", "dropped")
_FERTILITY_ROWS = {
    "tokensPerWord": "tokens a word",
    "baseTokensPerWord": "tokens a word, by the model's own tokenizer",
    "bytesPerToken": "bytes a token",
    "baseBytesPerToken": "bytes a token, by the model's own tokenizer",
}


class Output(StrEnum):
    """How to print."""

    TEXT = "text"
    JSON = "json"


def preview(
    path: Annotated[Path, typer.Argument(metavar="RUN.YAML", help="A TrainingRun, or its recipe alone.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.TEXT,
) -> None:
    """Show what a run will train on: real rows, what is left out and why, and what it will take.

    Reads the first rows of each source and writes nothing. Exit status 1 where preparing would refuse rows.
    """
    found = read_preview(read_manifest(path))
    if output is Output.JSON:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_preview(found)
    raise typer.Exit(1 if found["wouldFail"] else 0)


def read_manifest(path: Path) -> Recipe:
    """Read the recipe of a TrainingRun, or a recipe.

    Raises:
        UserError: the file cannot be read, or is neither: a line for each field that is wrong.
    """
    document = read_document(path)
    is_run = isinstance(document, dict) and document.get("kind") == KIND
    try:
        if is_run:
            return TrainingRunSpec.model_validate(document.get("spec")).to_recipe()
        return Recipe.model_validate(document)
    except ValidationError as error:
        kind, root = (KIND, "spec") if is_run else ("recipe", "")
        raise UserError(describe_mistakes(path, kind, error, root)) from error


def read_preview(recipe: Recipe) -> dict[str, Any]:
    """Return the preview that the trainer makes of a recipe; its refusals go to stderr.

    Raises:
        UserError: the trainer is not installed here.
        typer.Exit: the trainer refused the recipe; the exit code is its own.
    """
    if find_spec("transformers") is None:
        raise UserError(
            "preview reads rows as the trainer does, which is not installed here: pip install runyard[trainer]"
        )
    with NamedTemporaryFile("w", suffix=".json") as file:
        file.write(recipe.to_json())
        file.flush()
        command = [sys.executable, "-m", "runyard_trainer", "preview", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def print_preview(found: dict[str, Any]) -> None:
    """Print for a terminal: green is trained on."""
    from rich.console import Console

    console = Console(highlight=False)
    for row in found["rows"]:
        _print_row(console, row)
    _print_streams(console, found)
    estimate = found["estimate"]
    flops = f", {estimate['flops']} floating-point operations" if "flops" in estimate else ""
    about = "about " if found["isSample"] else ""
    reason = f" ({estimate['batchReason']})" if "batchReason" in estimate else ""
    console.print(
        f"\n{about}{estimate['steps']:,} steps of {estimate['batchSequences']:,} samples{reason}, "
        f"{estimate['tokens']:,} tokens through the model{flops}",
        soft_wrap=True,
    )
    if found["wouldFail"]:
        console.print("preparing will refuse the rows that are not valid", style="red")


def _print_row(console: Any, row: dict[str, Any]) -> None:
    from rich.text import Text

    console.print(Text(row["place"], style="bold"), Text(row["stream"], style="dim"), soft_wrap=True)
    if row["leftOut"]:
        console.print(Text(f"  left out: {row['leftOut']}", style="red"), soft_wrap=True)
        return
    text = Text("  ")
    for piece in row["pieces"]:
        text.append(piece["text"], style="green" if piece["trained"] else "dim")
    console.print(text, soft_wrap=True)
    truncated = ", truncated" if row["truncated"] else ""
    target = f", to learn: {row['target']}" if row["target"] else ""
    console.print(
        Text(f"  {row['tokens']:,} tokens, {row['trainedTokens']:,} of them trained on{truncated}{target}", style="dim")
    )


def _print_streams(console: Any, found: dict[str, Any]) -> None:
    from rich.table import Table

    names = list(found["streams"])
    table = Table("of these rows" if found["isSample"] else "", *names, box=None, header_style="bold")
    for key in _EXTRA_ROWS:
        table.add_row(key, *(f"{found['streams'][name][key]:,}" for name in names))
    for key in ("p50", "p90", "p99", "max"):
        table.add_row(f"tokens, {key}", *(str(found["streams"][name]["documentTokens"].get(key, "")) for name in names))
    fertility = {name: found["streams"][name].get("fertility") or {} for name in names}
    for key, title in _FERTILITY_ROWS.items():
        if any(key in fertility[name] for name in names):
            table.add_row(title, *(f"{fertility[name][key]:.2f}" if key in fertility[name] else "" for name in names))
    for reason in sorted({reason for name in names for reason in found["streams"][name]["leftOut"]}):
        counts = (found["streams"][name]["leftOut"].get(reason, 0) for name in names)
        table.add_row(f"left out: {reason}", *map(str, counts))
    console.print(table)
