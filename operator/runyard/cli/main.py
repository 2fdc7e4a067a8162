"""`runyard`: the commands, and how a mistake is shown without a traceback.

Commands import what they need when they are called, and this module imports typer then: images have neither, and
`python -m runyard` says there what to install.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from runyard_trainer.contract.exits import UserError

if TYPE_CHECKING:
    from typer import Typer

_INSTALL = "run `pip install -e '.[operator,trainer,local]'` in a clone of the repository"
_OWN_PACKAGES = ("runyard", "runyard_trainer")


def app() -> None:
    """Run the console script; show a user's mistake as one message on stderr, with exit status 1."""
    try:
        build_commands()()
    except UserError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OWN_PACKAGES:
            raise
        _fail(f"this command needs {package}, which is not installed here: {_INSTALL}")


def build_commands() -> Typer:
    """Put the commands together."""
    import typer

    from runyard.cli.local import local
    from runyard.cli.preview import preview
    from runyard.cli.quota import quota

    commands = typer.Typer(
        name="runyard",
        help="Adapt language models on your own GPUs, the Kubernetes way.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    commands.callback()(_accept_no_options)
    commands.add_typer(local, name="local")
    commands.command()(preview)
    commands.command()(quota)
    commands.command()(operator)
    return commands


def operator() -> None:
    """Run the operator: in a cluster as its chart does, or against $KUBECONFIG."""
    from runyard.main import run

    run()


def _accept_no_options() -> None:
    pass


def _fail(message: str) -> None:
    sys.stderr.write(f"runyard: {message}\n")
    sys.exit(1)
