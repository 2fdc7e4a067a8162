"""`runyard local`: a control plane with simulated GPU nodes on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

local = typer.Typer(
    help="A real Kubernetes API with simulated GPU nodes and an S3 server, in one directory, loopback only. For development.",
    no_args_is_help=True,
)

StateDir = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the instance. Default: $RUNYARD_LOCAL_DIR or ~/.runyard/local."),
]


@local.command()
def up(
    directory: StateDir = None,
    nodes: Annotated[int | None, typer.Option(min=0, max=64, help="Nodes. Default: 2, or as it was.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, max=64, help="Simulated GPUs of each node. Default: 2, or as it was.")
    ] = None,
    operator: Annotated[bool, typer.Option(help="Install the operator from the chart.")] = True,
) -> None:
    """Bring it up, or what has died of it; a healthy one is left alone."""
    from runyard.local.lifecycle import Wanted, bring_up

    state = _resolve(directory)
    started = bring_up(state, Wanted(nodes, gpus_per_node, operator))
    flag = f" --dir {shlex.quote(str(directory))}" if directory else ""
    typer.echo(f"{'Up' if started else 'Already up'}: {state}")
    typer.echo(f'Use it:  eval "$(runyard local env{flag})"; kubectl get nodes')


@local.command()
def down(
    directory: StateDir = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove its directory too, with all that lies on its S3.")] = False,
) -> None:
    """Stop every process of it. The next `up` goes on with the same data."""
    from runyard.local.lifecycle import take_down

    state = _resolve(directory)
    take_down(state, delete=delete)
    typer.echo(f"Down: {state}{' deleted' if delete else ''}")


def _resolve(directory: Path | None) -> Path:
    from runyard.local.instance import default_state_dir

    return (directory or default_state_dir()).expanduser().absolute()
