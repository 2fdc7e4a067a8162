"""Write and read token shards: prepared text in storage, read in sequences of one length.

    ShardWriter: documents ─> <stream>-<n>-<sha256>.bin  token ids, little-endian uint16 or uint32
                              <stream>-<n>-<sha256>.idx  uint64 end of each document, counted from the shard's start
    Stream: the documents of all shards ─> sequence(i, length); a shard is downloaded once per node, when needed

A document never spans two shards. The sequences are the documents one after the other, cut every `length` tokens.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runyard_trainer.data.dataset.manifest import ShardInfo, StreamInfo, describe_stream, fetch
from runyard_trainer.storage.base import Location

IGNORED = -100
"""A label that is not trained on: what transformers and torch skip."""

_SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class PackedSequence:
    """One sequence of `length` tokens; int64 arrays of shape [length]."""

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    """Positions; they restart at 0 at each document's start and at the padding's."""
    labels: NDArray[np.int64]
    """The input_ids (the loss shifts them), but IGNORED in the padding and at the first token of each document in this
    sequence, which has no token before it."""


def token_dtype(vocab_size: int) -> str:
    """Return the narrowest type that holds every token id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


# -------------------------------------------------------------------------------------------------------------- writing


class ShardWriter:
    """A stream of text while it is written: documents in, `StreamInfo` out; one shard is in memory."""

    def __init__(self, location: Location, stream: str, dtype: str, shard_bytes: int = _SHARD_BYTES) -> None:
        self._location = location
        self._stream = stream
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._shard_bytes = shard_bytes
        self._tokens = bytearray()
        self._ends: list[int] = []
        self._shards: list[ShardInfo] = []
        self._lengths: Counter[int] = Counter()

    def add(self, columns: dict[str, Any]) -> None:
        """Append a document: its `input_ids`, which end with the end-of-document token."""
        token_ids = columns["input_ids"]
        self._tokens += np.asarray(token_ids, dtype=self._dtype).tobytes()
        self._ends.append(len(self._tokens) // self._dtype.itemsize)
        self._lengths[len(token_ids)] += 1
        if len(self._tokens) >= self._shard_bytes:
            self._upload_shard()

    def finish(self) -> StreamInfo:
        """Upload the last shard and describe the stream."""
        if self._ends:
            self._upload_shard()
        return describe_stream(self._lengths, self._shards)

    def _upload_shard(self) -> None:
        tokens = bytes(self._tokens)
        index = np.asarray(self._ends, dtype="<u8").tobytes()
        digest = hashlib.sha256(tokens).hexdigest()
        shard = ShardInfo(
            name=f"{self._stream}-{len(self._shards):05d}-{digest}",
            sha256=digest,
            index_sha256=hashlib.sha256(index).hexdigest(),
            tokens=self._ends[-1],
            documents=len(self._ends),
        )
        (self._location / f"{shard.name}.bin").put(tokens)
        (self._location / f"{shard.name}.idx").put(index)
        self._shards.append(shard)
        self._tokens = bytearray()
        self._ends = []


# -------------------------------------------------------------------------------------------------------------- reading


class Stream:
    """A stream of text: its documents one after the other, as packed sequences."""

    def __init__(self, info: StreamInfo, shards: list[_Shard], eos_token_id: int) -> None:
        self.info = info
        self._shards = shards
        self._starts = np.cumsum([0] + [shard.info.tokens for shard in shards]).tolist()
        self._eos_token_id = eos_token_id

    def num_sequences(self, length: int, keep_tail: bool) -> int:
        """Count the sequences of `length` tokens; with `keep_tail` the last one may be padded."""
        full, tail = divmod(self.info.tokens, length)
        return full + (1 if keep_tail and tail else 0)

    def sequence(self, i: int, length: int) -> PackedSequence:
        """Return the i-th sequence of `length` tokens; the last one is padded."""
        start, stop = i * length, min((i + 1) * length, self.info.tokens)
        if not 0 <= start < stop:
            raise IndexError(f"sequence {i} of {length} tokens is not in a stream of {self.info.tokens}")
        tokens, document_starts = self._read(start, stop)
        return pack(tokens, document_starts, length, self._eos_token_id)

    def _read(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Read tokens [start, stop) of the stream, and which of them, counted from `start`, begin a document."""
        pieces: list[NDArray[np.int64]] = []
        document_starts: list[NDArray[np.int64]] = []
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            shard, offset = self._shards[number], self._starts[number]
            piece_stop = min(stop, self._starts[number + 1])
            first, last = start - offset, piece_stop - offset
            num_before = sum(len(piece) for piece in pieces)
            pieces.append(shard.tokens[first:last].astype(np.int64))
            document_starts.append(num_before - first + shard.document_starts(first, last))
            start = piece_stop
        return np.concatenate(pieces), np.concatenate(document_starts)


def pack(
    tokens: NDArray[np.int64], document_starts: NDArray[np.int64], length: int, eos_token_id: int
) -> PackedSequence:
    """Pack n <= length tokens into one sequence; `document_starts` are the indices of those that begin a document."""
    input_ids = np.full(length, eos_token_id, dtype=np.int64)
    input_ids[: len(tokens)] = tokens
    is_start = np.zeros(length, dtype=bool)
    is_start[[0, *document_starts.tolist()]] = True
    if len(tokens) < length:
        is_start[len(tokens)] = True
    places = np.arange(length, dtype=np.int64)
    position_ids = places - np.maximum.accumulate(np.where(is_start, places, 0))
    labels = np.where(is_start | (places >= len(tokens)), IGNORED, input_ids)
    return PackedSequence(input_ids, position_ids, labels)


class _Shard:
    """A shard's two files, downloaded to this node's disk when they are first read."""

    def __init__(self, location: Location, info: ShardInfo, dtype: str, cache_dir: Path) -> None:
        self.info = info
        self._location = location
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._cache_dir = cache_dir

    @cached_property
    def tokens(self) -> NDArray[np.unsignedinteger]:
        """The token ids, mapped from disk."""
        return self._map(f"{self.info.name}.bin", self.info.sha256, self._dtype)

    @cached_property
    def _ends(self) -> NDArray[np.unsignedinteger]:
        assert self.info.index_sha256 is not None, "a shard of tokens has an index"
        return self._map(f"{self.info.name}.idx", self.info.index_sha256, np.dtype("<u8"))

    def document_starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the tokens of [first, last) that begin a document, counted from the shard's start."""
        low, high = np.searchsorted(self._ends, np.array([first, last], dtype=np.uint64))
        starts = self._ends[low:high].astype(np.int64)
        return np.concatenate([[0], starts]) if first == 0 else starts

    def _map(self, name: str, sha256: str, dtype: np.dtype[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        return np.memmap(fetch(self._location / name, self._cache_dir, sha256), dtype=dtype, mode="r")
