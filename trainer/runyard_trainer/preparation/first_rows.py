"""The first rows of each source: enough of them for a person to see what they are like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.records.base import RecordKind
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.sources.listing import SourceFile
from runyard_trainer.data.sources.reading import read_rows
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row
from runyard_trainer.preparation.dataset_writer import Files
from runyard_trainer.storage.open import open_store

SAMPLED_ROWS = 200
"""Of each source."""
_COMPRESSION = 3.0
"""How much larger text is than its compressed file, roughly."""


@dataclass(frozen=True)
class Sample:
    """The first rows of one source."""

    files: list[SourceFile]
    rows: list[Row | Problem]
    """What is wrong takes the place of its row."""
    is_whole: bool

    @property
    def valid(self) -> list[Row]:
        """Those that hold a record."""
        return [row for row in self.rows if isinstance(row, Row)]

    @property
    def total_rows(self) -> float:
        """Of the whole source: counted, or reckoned from the sizes of its files."""
        if self.is_whole:
            return len(self.rows)
        if all(file.format == "text" for file in self.files):
            return len(self.files)
        row_bytes = sum(len(_to_line(row)) for row in self.valid) / max(1, len(self.valid))
        return max(len(self.rows), sum(map(_text_bytes_of, self.files)) / max(1.0, row_bytes))


def read_samples(recipe: Recipe, files: Files) -> dict[str, list[Sample]]:
    """The first rows of each source, by stream."""
    return {
        stream: [
            _read_sample(list(group), kind_of(recipe, stream))
            for _, group in groupby(listed, key=lambda file: file.source)
        ]
        for stream, listed in files.items()
    }


def _read_sample(files: list[SourceFile], kind: RecordKind) -> Sample:
    rows = list(islice(chain.from_iterable(map(read_rows, files)), SAMPLED_ROWS + 1))
    checked = [row if isinstance(row, Problem) else _check_row(row, kind) for row in rows[:SAMPLED_ROWS]]
    return Sample(files, checked, is_whole=len(rows) <= SAMPLED_ROWS)


def _check_row(row: Row, kind: RecordKind) -> Row | Problem:
    try:
        kind.parse(row)
    except BadRecord as error:
        return Problem(f"{row.place}: {error}")
    return row


def store_samples(samples: Mapping[str, Sequence[Sample]], folder: Path) -> Files:
    """The valid rows as files of their own, one a source: what the whole sources are to `prepare`, they are here."""
    folder.mkdir()
    files: Files = {}
    for stream, sampled in samples.items():
        files[stream] = []
        for number, sample in enumerate(sampled):
            path = folder / f"{stream}-{number}.jsonl"
            path.write_bytes(b"".join(_to_line(row) for row in sample.valid))
            location = open_store(f"file://{path}", Storage())
            size = path.stat().st_size
            files[stream].append(replace(sample.files[0], location=location, size_bytes=size, format="jsonl"))
    return files


def name_places(message: str, samples: Mapping[str, Sequence[Sample]], folder: Path) -> str:
    """A message about a stored row, as one about the row that it was."""
    for stream, sampled in samples.items():
        for number, sample in enumerate(sampled):
            for line, row in reversed(list(enumerate(sample.valid, 1))):
                message = message.replace(f"file://{folder}/{stream}-{number}.jsonl:{line}", row.place)
    return message


def _to_line(row: Row) -> bytes:
    return json.dumps(row.fields, ensure_ascii=False, default=str).encode(errors="replace") + b"\n"


def _text_bytes_of(file: SourceFile) -> float:
    is_compressed = file.format == "parquet" or file.location.name.endswith((".gz", ".zst"))
    return file.size_bytes * (_COMPRESSION if is_compressed else 1.0)
