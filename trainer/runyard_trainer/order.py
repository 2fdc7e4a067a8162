"""Which sequence is trained on when: arithmetic on integers, so that nothing needs to be stored to resume.

    place p = step x batch + i  ──(floor arithmetic)──>  the r-th replayed or the t-th trained sequence of the run
    t  ──>  epoch = t // n, index = t % n  ──(permute, a new key each epoch)──>  which sequence of the stream

The world's size takes no part in that: it only decides which rank computes which places of a step (`Order.places`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

from runyard_trainer.context import World
from runyard_trainer.contract import Recipe

_FEISTEL_ROUNDS = 6
_MASK_64 = 2**64 - 1


@dataclass(frozen=True)
class Sample:
    """One sample of a stream: a packed sequence, or a record."""

    stream: Literal["train", "replay"]
    index: int


@dataclass(frozen=True)
class Place:
    """One place of a step."""

    number: int
    """Among the places of the step, of all ranks."""
    sample: Sample | None
    """What is trained on there; None past the end of the batch."""


@dataclass(frozen=True)
class Order:
    """The samples of every step: a pure function of these numbers."""

    num_train: int
    """Samples of the stream `train`."""
    num_replay: int
    """Samples of the stream `replay`; 0 without replay."""
    replay_fraction: float
    """Share of the places of a run that are replayed."""
    batch: int
    """Samples in a step, over all ranks."""
    seed: int

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.batch < 1:
            raise ValueError(f"an order needs sequences to train on and a batch: {self}")
        if not 0 <= self.replay_fraction < 1 or (self.replay_fraction > 0 and self.num_replay < 1):
            raise ValueError(f"nothing to replay: {self}")

    def sample(self, step: int, i: int) -> Sample:
        """The sequence at place `i` (below `batch`) of a step (from 0). O(1)."""
        place = step * self.batch + i
        num_replayed = count_replayed(self.replay_fraction, place)
        if count_replayed(self.replay_fraction, place + 1) > num_replayed:
            return Sample("replay", self._shuffled("replay", num_replayed, self.num_replay))
        return Sample("train", self._shuffled("train", place - num_replayed, self.num_train))

    def places(self, step: int, world: World, micro_batch: int) -> list[list[Place]]:
        """This rank's micro-steps of a step, each of `micro_batch` places.

        Micro-step j of rank r of W holds places [j*W*m + r*m, j*W*m + (r+1)*m).
        """
        return [
            [Place(i, self.sample(step, i) if i < self.batch else None) for i in range(start, start + micro_batch)]
            for start in rank_starts(self.batch, world, micro_batch)
        ]

    def _shuffled(self, stream: str, nth: int, num_sequences: int) -> int:
        epoch, index = divmod(nth, num_sequences)
        return permute(index, num_sequences, _derive_key(self.seed, stream, epoch))


def rank_starts(count: int, world: World, micro_batch: int) -> range:
    """First places of this rank's micro-steps, as many on every rank, that cover `count` places together."""
    stride = world.size * micro_batch
    num_micro_steps = ceil(count / stride)
    first = world.rank * micro_batch
    return range(first, first + num_micro_steps * stride, stride)


def count_steps(recipe: Recipe, num_train: int) -> int:
    """Optimizer steps of the whole run, at least 1; `num_train` is the samples of the stream `train`.

    Replay replaces: it takes places of these steps and adds none.
    """
    training, batch = recipe.training, recipe.sequences_per_step
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return ceil(Fraction(training.tokens, batch * training.sequence_length))
    assert training.epochs is not None, "the contract holds exactly one of epochs, tokens and steps"
    return max(1, ceil(Fraction(repr(training.epochs)) * num_train / batch))


def count_replayed(replay_fraction: float, places: int) -> int:
    """How many of the first `places` of a run are replayed: exact, as the decimal fraction that was written."""
    return int(places * Fraction(repr(replay_fraction)))


def permute(index: int, n: int, key: int) -> int:
    """Where a bijection of range(n), chosen by a 64-bit key, sends `index`.

    A Feistel network over the smallest power of 4 that holds n; what falls outside is sent through again.
    """
    if not 0 <= index < n:
        raise ValueError(f"index {index} is not in range({n})")
    half_bits = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for round_number in range(_FEISTEL_ROUNDS):
            left, right = right, left ^ (_mix(key + (round_number << 32 | right)) & mask)
        index = left << half_bits | right
        if index < n:
            return index


def _mix(value: int) -> int:
    """The finalizer of splitmix64: every input bit moves every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def _derive_key(seed: int, stream: str, epoch: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{stream}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
