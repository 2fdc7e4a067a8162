"""Let ranks agree beside the training loop, over a process group of their own, so that no collectives mix."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import torch.distributed as dist

T = TypeVar("T")


class Agreement:
    """A process group in which every rank gets the same values and the same failures. All ranks make it together.

    A collective that fails because a peer is gone raises torch's error; `distributed.joined_ranks` turns it into
    Interrupted.
    """

    def __init__(self, timeout_s: float) -> None:
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup), "every rank is a member"
        self.group = group
        self._rank = dist.get_rank()
        self._size = dist.get_world_size()

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Do `work` on every rank and return all values, by rank.

        Raises:
            Exception: `work` failed on some rank: the error of the lowest such rank, raised on every rank.
        """
        outcomes = self._exchange(_attempt(work))
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes]  # type: ignore[misc]  # there is a value where there is no error

    def from_rank_0(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone and return its value on every rank. Raises as `gather`."""
        values = self.gather(work if self._rank == 0 else lambda: None)
        return values[0]  # type: ignore[return-value]  # rank 0's is a T

    def _exchange(self, own: _Outcome[T]) -> list[_Outcome[T]]:
        outcomes = [own] * self._size
        dist.all_gather_object(outcomes, own, group=self.group)
        outcomes[self._rank] = own  # not the copy that came back: this one's error has its traceback
        return outcomes


@dataclass
class _Outcome(Generic[T]):
    """The value of `work` on one rank, or its error."""

    value: T | None = None
    error: Exception | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"value": self.value, "error": self.error and _to_portable(self.error)}


def _attempt(work: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(work())
    except Exception as error:  # noqa: BLE001 - every rank learns of it and raises it
        return _Outcome(error=error)


def _to_portable(error: Exception) -> Exception:
    """Return the error itself if it survives pickling, else a RuntimeError with its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - just made here
    except Exception:  # noqa: BLE001 - whatever a foreign class does when it is copied
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
