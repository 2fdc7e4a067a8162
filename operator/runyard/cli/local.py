"""`runyard local`: a control plane with simulated GPU nodes on this machine."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from runyard_trainer.contract.exits import UserError

if TYPE_CHECKING:
    from runyard_local.instance import Instance
    from runyard_local.status import Part

local = typer.Typer(
    help="A real Kubernetes API, simulated GPU nodes and an S3 server in one directory: loopback only, to develop.",
    no_args_is_help=True,
)

StateDir = Annotated[
    Path | None,
    typer.Option("--dir", help="Directory of the instance. Default: $RUNYARD_LOCAL_DIR or ~/.runyard/local."),
]


class Output(StrEnum):
    """The format of the output."""

    TABLE = "table"
    JSON = "json"


@local.command()
def up(
    directory: StateDir = None,
    nodes: Annotated[int | None, typer.Option(min=0, max=64, help="Nodes. Default: 2, or as it was.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, max=64, help="Simulated GPUs of each node. Default: 2, or as it was.")
    ] = None,
    operator: Annotated[bool, typer.Option(help="Install the operator from the chart.")] = True,
) -> None:
    """Bring it up, or back up whatever of it has died. What runs is left alone."""
    from runyard_local.lifecycle import UpOptions, bring_up

    state = _resolve(directory)
    started = bring_up(state, UpOptions(nodes, gpus_per_node, operator))
    flag = f" --dir {shlex.quote(str(directory))}" if directory else ""
    typer.echo(f"{'Up' if started else 'Already up'}: {state}")
    typer.echo(f'Use it:  eval "$(runyard local env{flag})"; kubectl get nodes')


@local.command()
def down(
    directory: StateDir = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove the directory too, with all that lies on S3.")
    ] = False,
) -> None:
    """Stop every process of it. The next `up` goes on with the same data."""
    from runyard_local.lifecycle import take_down

    state = _resolve(directory)
    take_down(state, delete=delete)
    typer.echo(f"Down: {state}{' deleted' if delete else ''}")


@local.command()
def build() -> None:
    """Build the programs that `up` needs and nobody has built yet, and start nothing."""
    from runyard_local.programs.binaries import find_or_build

    for path in asdict(find_or_build()).values():
        typer.echo(path)


@local.command()
def status(
    directory: StateDir = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.TABLE,
) -> None:
    """Show what runs. Exit status 1 unless every server and node is ready."""
    from runyard_local.status import is_healthy, read_status

    parts = read_status(_load(directory))
    if output is Output.JSON:
        typer.echo(json.dumps([asdict(part) for part in parts], indent=2))
    else:
        _print_table(parts)
    raise typer.Exit(0 if is_healthy(parts) else 1)


@local.command()
def env(directory: StateDir = None) -> None:
    r"""Print what a shell needs: eval "$(runyard local env)"."""
    for line in _build_exports(_load(directory)):
        typer.echo(line)


def _build_exports(instance: Instance) -> Iterator[str]:
    from runyard_local.instance import REGION
    from runyard_local.servers.s3server import read_or_make_keys

    keys = read_or_make_keys(instance)
    clients = str(instance.kubectl.parent)
    if clients not in os.environ.get("PATH", "").split(os.pathsep):
        yield f'export PATH={shlex.quote(clients)}:"$PATH"'
    exports = {
        "KUBECONFIG": str(instance.kubeconfig),
        "AWS_ENDPOINT_URL_S3": instance.s3_endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": REGION,
    }
    for name, value in exports.items():
        yield f"export {name}={shlex.quote(value)}"


def _print_table(parts: list[Part]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("NAME", "STATE", "PID", "ADDRESS", box=None, pad_edge=False, header_style="")
    for part in parts:
        table.add_row(part.name, part.state, str(part.pid or ""), part.address)
    Console(highlight=False).print(table)


def _resolve(directory: Path | None) -> Path:
    from runyard_local.instance import default_state_dir

    return (directory or default_state_dir()).expanduser().absolute()


def _load(directory: Path | None) -> Instance:
    from runyard_local.instance import Instance

    state = _resolve(directory)
    instance = Instance.load(state)
    if instance is None:
        flag = f" --dir {shlex.quote(str(directory))}" if directory else ""
        raise UserError(f"there is no instance in {state}: make one with `runyard local up{flag}`")
    return instance
