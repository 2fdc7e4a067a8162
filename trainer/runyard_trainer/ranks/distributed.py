"""The ranks of a run and what they tell each other: gloo between CPUs, NCCL besides between GPUs.

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
"""For all ranks to find each other."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""For any one exchange: rank 0 may be downloading a model or uploading one while the others wait."""

T = TypeVar("T")


def select_device(world: World) -> torch.device:
    """This rank's GPU, or the CPU where there is none; a run that asks for GPUs has found them before (`gpus`)."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined_ranks(context: RunContext, device: torch.device) -> Iterator[None]:
    """Be one of the ranks; where this process has joined already, use that group and leave it as it is.

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
    """Rank 0 listens on its pod's own address only: pods that share a machine may share a port number."""
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
    """Whether a collective failed because another rank is gone. gloo has no error type of its own, only words."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def run_on_rank_0(function: Callable[[], T], world: World) -> T:
    """Call it on rank 0; its value, or the exception it raised, reaches every rank."""
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
    """Element by element, in float64: counts stay exact up to 2**53."""
    if world.size == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [float(value) for value in sums]


def gather_in_order(parts: dict[int, T], world: World) -> list[T]:
    """What all ranks have, in the order of its places."""
    everyones: list[dict[int, T]] = [parts]
    if world.size > 1:
        everyones = [{} for _ in range(world.size)]
        dist.all_gather_object(everyones, parts)
    together = {place: value for each in everyones for place, value in each.items()}
    return [together[place] for place in sorted(together)]


def min_over_ranks(value: float, world: World) -> float:
    """The least of all ranks' values."""
    if world.size == 1:
        return value
    least = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return float(least)
