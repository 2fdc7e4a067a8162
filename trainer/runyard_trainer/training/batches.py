"""The micro-batches of each step for one rank, as tensors, read ahead by a thread."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from runyard_trainer.context import World
from runyard_trainer.data.order import Order, Place, seed_of
from runyard_trainer.data.records.base import Samples
from runyard_trainer.objectives.base import MicroBatch, Objective

_STEPS_AHEAD = 2


@dataclass(frozen=True)
class StepBatches:
    """One rank's part of a step. All ranks have the same number of micro-batches; some may hold fillers only."""

    micro_batches: list[MicroBatch]

    @property
    def counts(self) -> list[int]:
        """This rank's part of what each term of the loss is divided by: tokens, texts or pairs."""
        return [sum(counts) for counts in zip(*(batch.counts for batch in self.micro_batches), strict=True)]

    @property
    def tokens(self) -> int:
        """Tokens of this rank's part."""
        return sum(batch.tokens for batch in self.micro_batches)


class Batches:
    """The micro-batches of every step, read ahead by a thread where steps are asked for one after the other."""

    def __init__(
        self, streams: Mapping[str, Samples], objective: Objective, order: Order, world: World, micro_batch: int
    ) -> None:
        """Take what to read; reading begins with the first step that is asked for.

        Args:
            streams: the samples of `train` and `replay`.
            objective: turns samples into tensors.
            order: which sample is at which place of a step.
            world: which rank this is.
            micro_batch: samples in a micro-batch.
        """
        self._streams = streams
        self._objective = objective
        self._order = order
        self._world = world
        self._micro_batch = micro_batch
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[StepBatches]] = {}

    def step(self, step: int) -> StepBatches:
        """Return this rank's micro-batches of a step (from 0); raise what went wrong while they were read ahead."""
        for soon in range(step, step + 1 + _STEPS_AHEAD):
            if soon not in self._ahead:
                self._ahead[soon] = self._reader.submit(self._read, soon)
        batches = self._ahead.pop(step).result()
        for skipped in [other for other in self._ahead if not step < other <= step + _STEPS_AHEAD]:
            self._ahead.pop(skipped).cancel()
        return batches

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, step: int) -> StepBatches:
        return StepBatches(
            [self._collate(step, places) for places in self._order.places(step, self._world, self._micro_batch)]
        )

    def _collate(self, step: int, places: list[Place]) -> MicroBatch:
        samples = [
            self._streams["train"].filler
            if place.sample is None
            else self._streams[place.sample.stream][place.sample.index]
            for place in places
        ]
        seeds = [seed_of(self._order.seed, step, place.number) for place in places]
        return self._objective.collate(samples, seeds, 0)
