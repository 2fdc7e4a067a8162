"""Run a function on real gloo ranks: processes of their own, joined through a file.

The processes are forked from a server that has imported torch once, so that a world of four starts in well under a
second. The function must be importable (a module's own, no lambda), its arguments and value picklable. It is called
with its `World` first.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from runyard_trainer.context import World

from tests.forks import fork_context

# what a rank would import, done once: torch._dynamo is what the first optimizer step pulls in
_PRELOADED = [
    "peft",
    "rouge_score.rouge_scorer",
    "sklearn.metrics",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "runyard_trainer.train",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "tests.ranks.run_ranks",
]
_context = fork_context(*_PRELOADED)


@dataclass(frozen=True)
class Ended:
    """The end of a rank."""

    value: Any = None
    """What the function returned."""
    error: str | None = None
    """The traceback of what it raised; "exit code n" where it ended without a word."""


def run_ranks(function: Callable[..., Any], size: int, *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """Return the values of `function(world, *args)` by rank.

    Raises:
        AssertionError: a rank failed; with every failed rank's traceback.
    """
    ended = end_ranks(function, size, *args, timeout_s=timeout_s)
    failed = [f"rank {rank}: {end.error}" for rank, end in enumerate(ended) if end.error is not None]
    assert not failed, "\n".join(failed)
    return [end.value for end in ended]


def end_ranks(function: Callable[..., Any], size: int, *args: Any, timeout_s: float = 120.0) -> list[Ended]:
    """Return how each rank ended, by rank: for tests in which some fail or die."""
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pipes = [_context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            _context.Process(target=_run_rank, args=(rank, size, f"{folder}/rendezvous", sender, function, args))
            for rank, (_, sender) in enumerate(pipes)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        deadline = time.monotonic() + timeout_s
        try:
            return [
                _receive(receiver, process, deadline) for (receiver, _), process in zip(pipes, processes, strict=True)
            ]
        finally:
            for process in processes:
                process.kill()
                process.join()


def _receive(receiver: Connection, process: Any, deadline: float) -> Ended:
    if not wait([receiver], max(0.0, deadline - time.monotonic())):
        return Ended(error="did not end in time")
    try:
        ended: Ended = receiver.recv()
    except EOFError:
        process.join(10)
        return Ended(error=f"exit code {process.exitcode}")
    return ended


def _run_rank(
    rank: int, size: int, rendezvous: str, sender: Connection, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=size)
    dist.barrier()  # a rank whose function ends at once must not be gone while another still connects to it
    try:
        ended = Ended(function(World(rank, size, rank, size), *args))
    except Exception:  # noqa: BLE001 - the test is told
        ended = Ended(error=traceback.format_exc())
    sender.send(ended)
    sender.close()
    if ended.error is None:
        dist.destroy_process_group()
