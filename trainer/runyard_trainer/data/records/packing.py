"""Records of different lengths packed into few sequences of one length, each of them whole.

    lengths ─(pack_lengths)─> which records lie in which sequence ─> input_ids, position_ids that restart, labels

Which records lie together follows from the lengths alone, so every rank and attempt packs alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED, pack
from runyard_trainer.data.records.base import Sample


def pack_lengths(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Return the records of each sequence, by their place in `lengths`; none is longer than `capacity`.

    Best fit: from the longest to the shortest, each goes where it leaves the least room.
    """
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a sequence has room for r more tokens: the least that will do is found at once
    for record in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[record])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            sequence = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            sequences[sequence].append(record)
        else:
            room, sequence = capacity, len(sequences)
            sequences.append([record])
        by_room.setdefault(room - length, []).append(sequence)
        rooms |= 1 << (room - length)
    return sequences


@dataclass(frozen=True)
class PackedRecords:
    """A stream of records with `spans` of trained tokens, as sequences of one length."""

    examples: Examples
    sequences: list[list[int]]
    length: int
    eos_token_id: int
    sizes: list[int]
    """The number of sequences of each source. Where sources have weights, no sequence has records of two."""

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> Sample:
        records = [self.examples[i] for i in self.sequences[index]]
        tokens = np.concatenate([record["input_ids"] for record in records])
        starts = np.cumsum([0, *(len(record["input_ids"]) for record in records[:-1])])
        labels = np.full(self.length, IGNORED, dtype=np.int64)
        for start, record in zip(starts.tolist(), records, strict=True):
            for first, last in record["spans"].reshape(-1, 2).tolist():
                labels[start + first : start + last] = record["input_ids"][first:last]
        packed = pack(tokens, starts, self.length, self.eos_token_id)
        return {"input_ids": packed.input_ids, "position_ids": packed.position_ids, "labels": labels}

    @property
    def filler(self) -> Sample:
        """A sequence of padding."""
        nothing = np.empty(0, dtype=np.int64)
        packed = pack(nothing, nothing, self.length, self.eos_token_id)
        return {"input_ids": packed.input_ids, "position_ids": packed.position_ids, "labels": packed.labels}


def open_packed_records(dataset: Dataset, stream: str, recipe: Recipe) -> PackedRecords:
    """Open the sequences of a stream."""
    examples, length = dataset.examples(stream), recipe.training.sequence_length
    sizes = [len(examples)]
    if stream == "train" and any(source.weight != 1 for source in recipe.data.train):
        sizes = [source.documents for source in examples.info.by_source]
    packed = pack_apart(examples.lengths, sizes, length)
    sequences = [sequence for part in packed for sequence in part]
    return PackedRecords(examples, sequences, length, dataset.info.eos_token_id, [len(part) for part in packed])


def pack_apart(lengths: NDArray[np.int64], sizes: Sequence[int], capacity: int) -> list[list[list[int]]]:
    """Return the sequences of records whose first `sizes[0]` are packed by `pack_lengths`, then the next `sizes[1]`,
    ...
    """
    packed, start = [], 0
    for size in sizes:
        sequences = pack_lengths(lengths[start : start + size], capacity)
        packed.append([[start + record for record in sequence] for sequence in sequences])
        start += size
    return packed
