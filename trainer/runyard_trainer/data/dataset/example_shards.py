"""Write and read example shards: Arrow files whose rows are examples, read one by one.

    ExampleWriter: examples ─> <stream>-<n>-<sha256>.arrow, uncompressed, mapped into memory when it is read

A row has `input_ids` and what else the schema of its kind of record names.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from runyard_trainer.data.dataset.manifest import ShardInfo, StreamInfo, describe_stream, fetch
from runyard_trainer.storage.base import Location

_SHARD_TOKENS = 16 << 20


class ExampleWriter:
    """A stream of examples while it is written: examples in, `StreamInfo` out; one shard is in memory."""

    def __init__(self, location: Location, stream: str, schema: pa.Schema, shard_tokens: int = _SHARD_TOKENS) -> None:
        self._location = location
        self._stream = stream
        self._schema = schema
        self._shard_tokens = shard_tokens
        self._rows: list[dict[str, Any]] = []
        self._num_tokens = 0
        self._shards: list[ShardInfo] = []
        self._lengths: Counter[int] = Counter()

    def add(self, columns: dict[str, Any]) -> None:
        """Append an example."""
        num_tokens = len(columns["input_ids"])
        self._rows.append(columns)
        self._num_tokens += num_tokens
        self._lengths[num_tokens] += 1
        if self._num_tokens >= self._shard_tokens:
            self._upload_shard()

    def finish(self) -> StreamInfo:
        """Upload the last shard and describe the stream."""
        if self._rows:
            self._upload_shard()
        return describe_stream(self._lengths, self._shards)

    def _upload_shard(self) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        data = sink.getvalue().to_pybytes()
        digest = hashlib.sha256(data).hexdigest()
        shard = ShardInfo(
            name=f"{self._stream}-{len(self._shards):05d}-{digest}",
            sha256=digest,
            tokens=self._num_tokens,
            documents=len(self._rows),
        )
        (self._location / f"{shard.name}.arrow").put(data)
        self._shards.append(shard)
        self._rows, self._num_tokens = [], 0


class Examples:
    """The examples of a stream."""

    def __init__(self, location: Location, info: StreamInfo, cache_dir: Path) -> None:
        self.info = info
        self._location = location
        self._cache_dir = cache_dir
        self._starts = np.cumsum([0] + [shard.documents for shard in info.shards]).tolist()

    def __len__(self) -> int:
        return self.info.documents

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an example by column; a list of integers as an int64 array, any other value as a Python object."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} is not in a stream of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        row = self._tables[number].slice(index - self._starts[number], 1)
        return {name: _to_value(row.column(name)[0]) for name in row.column_names}

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each example."""
        columns = [table.column("input_ids") for table in self._tables]
        lengths = [pc.list_value_length(column).to_numpy() for column in columns]
        return np.concatenate([np.empty(0, dtype=np.int64), *lengths]).astype(np.int64)

    @cached_property
    def _tables(self) -> list[pa.Table]:
        return [self._open(shard) for shard in self.info.shards]

    def _open(self, shard: ShardInfo) -> pa.Table:
        path = fetch(self._location / f"{shard.name}.arrow", self._cache_dir, shard.sha256)
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _to_value(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.ListScalar) and pa.types.is_integer(scalar.type.value_type) and scalar.is_valid:
        return scalar.values.to_numpy().astype(np.int64)
    return scalar.as_py()
