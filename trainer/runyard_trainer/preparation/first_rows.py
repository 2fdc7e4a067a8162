"""Read the first rows of each source: enough of them for a person to see what they are like."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.base import RecordKind
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.sources.listing import SourceFile
from runyard_trainer.data.sources.reading import read_rows
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row
from runyard_trainer.preparation.record_streams import Files, SourceRecord

SAMPLED_ROWS = 200
"""Rows that are read of each source."""
_COMPRESSION = 3.0
"""How much larger text is than its compressed file, roughly."""


@dataclass(frozen=True)
class FirstRow:
    """One of the first rows of a source."""

    row: Row
    record: Any
    """The record that the row holds."""

    @property
    def place(self) -> str:
        """Where the row was read: URI and line."""
        return self.row.place

    @property
    def size_bytes(self) -> int:
        """The row's size as a line of JSONL."""
        return len(json.dumps(self.row.fields, ensure_ascii=False, default=str).encode(errors="replace")) + 1


@dataclass(frozen=True)
class FirstRows:
    """The first rows of one source."""

    files: list[SourceFile]
    rows: list[FirstRow | Problem]
    """A Problem stands for a row that holds no record."""
    is_whole: bool
    """Whether the source has no other rows."""

    @property
    def valid(self) -> list[FirstRow]:
        """The rows that hold a record."""
        return [row for row in self.rows if isinstance(row, FirstRow)]

    @property
    def size_bytes(self) -> int:
        """The size of the rows that hold a record, as JSONL."""
        return sum(row.size_bytes for row in self.valid)

    @property
    def total_rows(self) -> float:
        """The rows of the whole source: counted, or estimated from the sizes of its files."""
        if self.is_whole:
            return len(self.rows)
        if all(file.format == "text" for file in self.files):
            return len(self.files)
        row_bytes = self.size_bytes / max(1, len(self.valid))
        return max(len(self.rows), sum(map(_estimate_text_bytes, self.files)) / max(1.0, row_bytes))


def read_first_rows(recipe: Recipe, files: Files) -> dict[str, list[FirstRows]]:
    """Read the first rows of each source, by stream."""
    return {
        stream: [
            _read_source(list(group), kind_of(recipe, stream))
            for _, group in groupby(listed, key=lambda file: file.source)
        ]
        for stream, listed in files.items()
    }


def _read_source(files: list[SourceFile], kind: RecordKind) -> FirstRows:
    rows = list(islice(chain.from_iterable(map(read_rows, files)), SAMPLED_ROWS + 1))
    return FirstRows(files, [_parse(row, kind) for row in rows[:SAMPLED_ROWS]], is_whole=len(rows) <= SAMPLED_ROWS)


def _parse(row: Row | Problem, kind: RecordKind) -> FirstRow | Problem:
    if isinstance(row, Problem):
        return row
    try:
        return FirstRow(row, kind.parse(row))
    except BadRecord as error:
        return Problem(f"{row.place}: {error}")


def _estimate_text_bytes(file: SourceFile) -> float:
    is_compressed = file.format == "parquet" or file.location.name.endswith((".gz", ".zst"))
    return file.size_bytes * (_COMPRESSION if is_compressed else 1.0)


class FirstRowStreams:
    """The first rows as streams (`RecordStreams`): what all rows are to `prepare`, they are to a preview."""

    def __init__(self, sources: Mapping[str, Sequence[FirstRows]]) -> None:
        self._sources = sources

    @property
    def names(self) -> Sequence[str]:
        """See `RecordStreams`."""
        return list(self._sources)

    def size_bytes(self, stream: str) -> int:
        """See `RecordStreams`."""
        return sum(source.size_bytes for source in self._sources.get(stream, ()))

    def read(self, stream: str, activity: str) -> Iterator[SourceRecord]:  # noqa: ARG002 - few rows leave no log
        """See `RecordStreams`."""
        for source in self._sources.get(stream, ()):
            for row in source.rows:
                yield (row.row.source, row.record) if isinstance(row, FirstRow) else (0, row)
