"""`runyard`: the commands. A user's mistake is printed without a traceback."""

from __future__ import annotations

import sys

import typer
from runyard_trainer.contract.exits import UserError

from runyard.cli.local import local
from runyard.cli.preview import preview
from runyard.cli.quota import quota

_typer = typer.Typer(
    name="runyard",
    help="Adapt language models on your own GPUs, the Kubernetes way.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_typer.add_typer(local, name="local")
_typer.command()(preview)
_typer.command()(quota)


@_typer.callback()
def _root() -> None:
    pass


@_typer.command()
def operator() -> None:
    """Run the operator: in a cluster as its chart does, or against $KUBECONFIG."""
    from runyard.main import run  # what the other commands need not install

    run()


def app() -> None:
    """Run the console script: a user's mistake is one message on stderr and exit status 1."""
    try:
        _typer()
    except UserError as error:
        sys.stderr.write(f"runyard: {error}\n")
        sys.exit(1)
