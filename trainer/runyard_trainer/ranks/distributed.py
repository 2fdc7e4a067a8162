"""Join the ranks of a run, and exchange small values: gloo between CPUs, NCCL besides between GPUs.

Small things (flags, counts, sums) go over gloo on every machine, so they need no GPU synchronisation. A world of one
has a process group too: the sharded model is the same code there.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.exits import Interrupted

RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
"""How long all ranks may take to find each other."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""How long one collective may take: rank 0 may be downloading or uploading a model while the others wait."""

T = TypeVar("T")


def select_device(world: World) -> torch.device:
    """Select this rank's GPU, or the CPU where there is none: `require_gpus` has passed before."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined_ranks(context: RunContext, device: torch.device) -> Iterator[None]:
    """Join the other ranks for the body; where this process has joined already, use that group and leave it as it is.

    Raises:
        Interrupted: a peer did not come, or went away, while the body ran.
    """
    is_ours = not dist.is_initialized()
    try:
        if is_ours:
            _join(context, device)
        yield
        if is_ours:
            dist.barrier()  # none closes its connections while another still uses them
            dist.destroy_process_group()
    except (RuntimeError, OSError) as error:
        if is_peer_loss(error):
            raise Interrupted(f"lost a peer: {str(error).splitlines()[0]}") from error
        raise


def _join(context: RunContext, device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if dist.is_torchelastic_launched():
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    else:
        world = context.world
        dist.init_process_group(
            backend, store=_open_store(context), rank=world.rank, world_size=world.size, timeout=COLLECTIVE_TIMEOUT
        )


def _open_store(context: RunContext) -> Store:
    """Open the rendezvous. Rank 0 listens on its pod's own address: pods of one machine may share a port number."""
    world = context.world
    if world.size == 1:
        return HashStore()
    if world.rank > 0:
        return TCPStore(
            context.master_addr, context.master_port, world.size, is_master=False, timeout=RENDEZVOUS_TIMEOUT
        )
    listener = socket.create_server((context.pod_ip, context.master_port), backlog=max(128, world.size))
    return TCPStore(
        context.pod_ip,
        context.master_port,
        world.size,
        is_master=True,
        timeout=RENDEZVOUS_TIMEOUT,
        master_listen_fd=os.dup(listener.detach()),
    )


def is_peer_loss(error: BaseException) -> bool:
    """Return whether another rank's end broke a collective. gloo raises RuntimeError, so its text decides."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def run_on_rank_0(function: Callable[[], T], world: World) -> T:
    """Call `function` on rank 0 alone; return its value, or raise its exception, on every rank."""
    if world.size == 1:
        return function()
    answer: list[T | Exception | None] = [None]
    if world.rank == 0:
        try:
            answer = [function()]
        except Exception as error:  # noqa: BLE001 - raised again below, on all ranks alike
            answer = [error]
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]  # type: ignore[return-value]  # rank 0's value is never the None that the others start with


def sum_over_ranks(values: Sequence[float], world: World) -> list[float]:
    """Sum each value over the ranks, in float64: counts stay exact up to 2**53."""
    if world.size == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def gather_in_order(parts: dict[int, T], world: World) -> list[T]:
    """Return the values of all ranks, ordered by their keys: each rank holds some places of one list."""
    everyones: list[dict[int, T]] = [parts]
    if world.size > 1:
        everyones = [{} for _ in range(world.size)]
        dist.all_gather_object(everyones, parts)
    together = {place: value for each in everyones for place, value in each.items()}
    return [together[place] for place in sorted(together)]


def min_over_ranks(value: float, world: World) -> float:
    """Return the least of all ranks' values."""
    if world.size == 1:
        return value
    least = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return float(least)
