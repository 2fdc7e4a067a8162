"""Compute which sample is trained on at which place of which step.

    place p = step x batch + i  ──(floor arithmetic)──>  the r-th replayed or the t-th trained sample of the run
    t  ──(floor arithmetic, where sources have weights)──>  the q-th sample drawn from one part, which is one source
    q  ──>  round = q // n, index = q % n  ──(permute, a new key each round)──>  the number of a sample of the part

All of it is arithmetic on integers, so a run resumes at any step without stored state. A part of n samples and weight w
gets the share w x n / sum(w x n) of any stretch of the run, give or take one sample for each part, and each of its
samples comes once before any comes again. The number of ranks changes none of this: it only decides which rank computes
which places of a step (`Order.places`).
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
    """Its number among the places of the step on all ranks, from 0."""
    sample: Sample | None
    """The sample that is trained on there; None past the end of the batch."""


@dataclass(frozen=True)
class Part:
    """Consecutive samples of the stream `train`, such as those of one source, and their weight."""

    size: int
    """Number of samples."""
    weight: float = 1.0
    """How often each of them is trained on in an epoch."""

    @property
    def share(self) -> Fraction:
        """The part's samples in an epoch, each counted as often as it is trained on; exact, as the recipe writes it."""
        return self.size * Fraction(repr(self.weight))


@dataclass(frozen=True)
class _Split:
    """A part, and its share of the places that the parts before it leave.

    Of parts with shares 1/2, 1/4 and 1/4 of the run, the first takes 1/2 of all places, the second 1/2 of the rest, and
    the last 1/1 of what is then left.
    """

    name: str
    start: int
    """The number of the part's first sample in the stream."""
    size: int
    share: tuple[int, int]
    """The share as numerator and denominator."""


@dataclass(frozen=True)
class Order:
    """The samples of all steps of a run: a pure function of these numbers."""

    num_train: int
    """Samples of the stream `train`."""
    num_replay: int
    """Samples of the stream `replay`; 0 without replay."""
    replay_fraction: float
    """Share of the run's places at which a sample is replayed."""
    batch: int
    """Samples in a step, over all ranks."""
    seed: int
    parts: tuple[Part, ...] = ()
    """The parts of the stream `train`, where its samples do not all have one weight."""

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.batch < 1:
            raise ValueError(f"an order needs sequences to train on and a batch: {self}")
        if not 0 <= self.replay_fraction < 1 or (self.replay_fraction > 0 and self.num_replay < 1):
            raise ValueError(f"nothing to replay: {self}")
        if self.parts and sum(part.size for part in self.parts) != self.num_train:
            raise ValueError(f"the parts are not all samples: {self}")

    def sample(self, step: int, i: int) -> Sample:
        """Return the sample at place `i` (below `batch`) of a step (from 0), in constant time."""
        place = step * self.batch + i
        num_replayed = count_replayed(self.replay_fraction, place)
        if count_replayed(self.replay_fraction, place + 1) > num_replayed:
            return Sample("replay", self._shuffled("replay", num_replayed, self.num_replay))
        return Sample("train", self._trained(place - num_replayed))

    def places(self, step: int, world: World, micro_batch: int) -> list[list[Place]]:
        """Return the places of this rank's micro-steps in a step, `micro_batch` places each.

        Micro-step j of rank r of W ranks holds the m = `micro_batch` places [j*W*m + r*m, j*W*m + (r+1)*m).
        """
        return [
            [Place(i, self.sample(step, i) if i < self.batch else None) for i in range(start, start + micro_batch)]
            for start in rank_starts(self.batch, world, micro_batch)
        ]

    def _trained(self, nth: int) -> int:
        """Return the number, in the stream `train`, of the sample that is trained on n-th."""
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
    """Return the first place of each of this rank's micro-steps.

    All ranks together cover `count` places, in equally many micro-steps each.
    """
    stride = world.size * micro_batch
    num_micro_steps = ceil(count / stride)
    first = world.rank * micro_batch
    return range(first, first + num_micro_steps * stride, stride)


def count_epoch(parts: Sequence[Part]) -> Fraction:
    """Count the samples in an epoch, each as often as its part's weight says."""
    return sum((part.share for part in parts), Fraction())


def count_replayed(replay_fraction: float, places: int) -> int:
    """Count the replayed samples among the first `places` of a run; exact, as the recipe writes the fraction."""
    return int(places * Fraction(repr(replay_fraction)))


def permute(index: int, n: int, key: int) -> int:
    """Return the image of `index` under a permutation of range(n) that is chosen by a 64-bit key.

    The permutation is a Feistel network over the smallest power of 4 that holds n; an image outside of range(n) is sent
    through the network again.
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
    """Mix 64 bits by the finalizer of splitmix64, in which every input bit changes every output bit."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)


def _derive_key(seed: int, stream: str, epoch: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{stream}/{epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_of(seed: int, step: int, place: int) -> int:
    """Derive the seed of the random choices at a place of a step, such as masking; the same on any rank."""
    digest = hashlib.blake2b(f"{seed}/{step}/{place}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
