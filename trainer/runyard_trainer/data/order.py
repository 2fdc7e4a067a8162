"""Which sequence is trained on when: arithmetic on integers, so that nothing needs to be stored to resume.

    place p = step x batch + i  ──(floor arithmetic)──>  the r-th replayed or the t-th trained sequence of the run
    t  ──(floor arithmetic, where sources have weights)──>  the q-th of a part of the stream: of one source
    q  ──>  round = q // n, index = q % n  ──(permute, a new key each round)──>  which sequence of the part

So a part of n sequences and weight w has its share w x n / sum(w x n) of any stretch of the run, to within as many
sequences as there are parts, and has each of its sequences once before any of them again. The world's size has no say
in that: it only decides which rank computes which places of a step (`Order.places`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Literal

from runyard_trainer.context import World

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
class Part:
    """Samples of the stream `train` that lie one after the other, and how often each is trained on in an epoch."""

    size: int
    weight: float = 1.0

    @property
    def share(self) -> Fraction:
        """Its samples in an epoch: exact, as the decimal fraction that was written."""
        return self.size * Fraction(repr(self.weight))


@dataclass(frozen=True)
class _Split:
    """A part, and which of what no part before it has taken is its own."""

    name: str
    start: int
    """Its first sample in the stream."""
    size: int
    share: tuple[int, int]
    """Numerator and denominator."""


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
    parts: tuple[Part, ...] = ()
    """Of the stream `train`, where its samples do not all weigh the same."""

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.batch < 1:
            raise ValueError(f"an order needs sequences to train on and a batch: {self}")
        if not 0 <= self.replay_fraction < 1 or (self.replay_fraction > 0 and self.num_replay < 1):
            raise ValueError(f"nothing to replay: {self}")
        if self.parts and sum(part.size for part in self.parts) != self.num_train:
            raise ValueError(f"the parts are not all samples: {self}")

    def sample(self, step: int, i: int) -> Sample:
        """The sequence at place `i` (below `batch`) of a step (from 0). O(1)."""
        place = step * self.batch + i
        num_replayed = count_replayed(self.replay_fraction, place)
        if count_replayed(self.replay_fraction, place + 1) > num_replayed:
            return Sample("replay", self._shuffled("replay", num_replayed, self.num_replay))
        return Sample("train", self._trained(place - num_replayed))

    def places(self, step: int, world: World, micro_batch: int) -> list[list[Place]]:
        """This rank's micro-steps of a step, each of `micro_batch` places.

        Micro-step j of rank r of W holds places [j*W*m + r*m, j*W*m + (r+1)*m).
        """
        return [
            [Place(i, self.sample(step, i) if i < self.batch else None) for i in range(start, start + micro_batch)]
            for start in rank_starts(self.batch, world, micro_batch)
        ]

    def _trained(self, nth: int) -> int:
        """Each part takes its share of what the ones before it have left, and the last one all of it."""
        for split in self._splits:
            numerator, denominator = split.share
            taken = nth * numerator // denominator
            if (nth + 1) * numerator // denominator > taken:
                return split.start + self._shuffled(split.name, taken, split.size)
            nth -= taken
        raise AssertionError("the last part takes all that is left")

    @cached_property
    def _splits(self) -> list[_Split]:
        splits, start = [], 0
        parts = self.parts or (Part(self.num_train),)
        left = count_epoch(parts)
        for number, part in enumerate(parts):
            if part.size:
                name = f"train/{number}" if number else "train"
                splits.append(_Split(name, start, part.size, (part.share / left).as_integer_ratio()))
            start += part.size
            left -= part.share
        return splits

    def _shuffled(self, stream: str, nth: int, num_sequences: int) -> int:
        epoch, index = divmod(nth, num_sequences)
        return permute(index, num_sequences, _derive_key(self.seed, stream, epoch))


def rank_starts(count: int, world: World, micro_batch: int) -> range:
    """First places of this rank's micro-steps, as many on every rank, that cover `count` places together."""
    stride = world.size * micro_batch
    num_micro_steps = ceil(count / stride)
    first = world.rank * micro_batch
    return range(first, first + num_micro_steps * stride, stride)


def count_epoch(parts: Sequence[Part]) -> Fraction:
    """Samples in an epoch, each as often as it weighs."""
    return sum((part.share for part in parts), Fraction())


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


def seed_of(seed: int, step: int, place: int) -> int:
    """Of what chance does to the sample at a place of a step: neither the rank nor its neighbours matter."""
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
