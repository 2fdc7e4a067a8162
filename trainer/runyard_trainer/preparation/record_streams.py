"""Read the records of each stream: from the files that a recipe names, with the progress as lines of a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.base import RecordKind
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.records.text import TokenIds
from runyard_trainer.data.sources.listing import SourceFile, list_sources
from runyard_trainer.data.sources.reading import read_records, read_records_or_problems
from runyard_trainer.data.sources.rows import Problem, Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_LOGGED_PROBLEMS = 10
"""Rows of a stream that are logged when they are left out, for somebody to see what they are like."""
_LOG_INTERVAL_S = 10.0

log = logging.getLogger(__name__)

Files = dict[str, list[SourceFile]]
"""The files to read, by stream: `train`, `replay`, `general`, `validation` where it is not a part of `train`, and
`target` and `reference`, which `data.select` compares with."""

SourceRecord = tuple[int, Any]
"""The number of a source in the recipe's list, and a record; or, for a row that is left out, its Problem."""


def list_files(recipe: Recipe) -> Files:
    """List the files to read, by stream."""
    data = recipe.data
    named: dict[str, tuple[Sequence[DataSource], str]] = {"train": (data.train, "data.train")}
    if data.replay is not None and data.replay.sources is not None:
        named["replay"] = (data.replay.sources, "data.replay.sources")
    if data.validation.sources is not None:
        named["validation"] = (data.validation.sources, "data.validation.sources")
    if recipe.evaluation.general:
        named["general"] = (recipe.evaluation.general, "evaluation.general")
    if data.select is not None:
        named |= {name: (sources, f"data.select.{name}") for name, sources in data.select.compared.items()}
    return {stream: list_sources(sources, recipe.storage, field) for stream, (sources, field) in named.items()}


def total_bytes(files: Sequence[SourceFile]) -> int:
    """Sum up the sizes of files as they are stored, compressed or not."""
    return sum(file.size_bytes for file in files)


class RecordStreams(Protocol):
    """The records of a run's streams, to be read from the beginning as often as it takes."""

    @property
    def names(self) -> Sequence[str]:
        """The streams that have records of their own, in the order in which they are written."""

    def read(self, stream: str, activity: str) -> Iterator[SourceRecord]:
        """Read a stream's records in order, none if there is no such one; `activity` names the reading in the log."""

    def size_bytes(self, stream: str) -> int:
        """Return the size of a stream's text as it is stored."""


class FileStreams:
    """The streams in the files that a recipe names."""

    def __init__(self, recipe: Recipe, files: Files) -> None:
        self._recipe = recipe
        self._files = files
        self._has_logged_problems: set[str] = set()

    @property
    def names(self) -> Sequence[str]:
        """See `RecordStreams`."""
        return list(self._files)

    def size_bytes(self, stream: str) -> int:
        """See `RecordStreams`."""
        return total_bytes(self._files.get(stream, ()))

    def read(self, stream: str, activity: str) -> Iterator[SourceRecord]:
        """See `RecordStreams`."""
        kind, num_problems = kind_of(self._recipe, stream), 0
        read = read_records_or_problems if self._recipe.data.invalid_rows == "Drop" else read_records
        with ProgressLog(log, activity, self.size_bytes(stream)) as progress:
            for item in read(self._files.get(stream, ()), lambda row: _parse(row, kind), progress.advance):
                if isinstance(item, Problem):
                    num_problems += 1
                    self._log_problem(stream, item, num_problems)
                    yield 0, item
                else:
                    progress.count_document()
                    yield item
        self._has_logged_problems.add(stream)

    def _log_problem(self, stream: str, problem: Problem, number: int) -> None:
        """Log the first problems of a stream, the first time that it is read."""
        if stream not in self._has_logged_problems and number <= _LOGGED_PROBLEMS:
            log.warning("left out: %s", problem.text)


def read_valid(streams: RecordStreams, stream: str, activity: str) -> Iterator[Any]:
    """Read the records of a stream without the rows that hold none."""
    return (record for _, record in streams.read(stream, activity) if not isinstance(record, Problem))


def text_of(kind: RecordKind, record: Any, tokenizer: DocumentTokenizer) -> str:
    """Return the text of a record, decoded where the record came as token ids."""
    return tokenizer.decode(record.ids) if isinstance(record, TokenIds) else kind.identity(record)


def _parse(row: Row, kind: RecordKind) -> SourceRecord:
    return row.source, kind.parse(row)


class ProgressLog:
    """The progress of a long reading: share, documents and time left, logged every ten seconds and at the end."""

    def __init__(
        self, log: logging.Logger, activity: str, total_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._activity = activity
        self._total_bytes = total_bytes
        self._clock = clock
        self._bytes = 0
        self._documents = 0
        self._start_s = self._logged_s = clock()

    def advance(self, num_bytes: int) -> None:
        """Count bytes that were read."""
        self._bytes += num_bytes
        self._log_sometimes()

    def count_document(self) -> None:
        """Count a document that was read."""
        self._documents += 1
        self._log_sometimes()

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            elapsed_s = self._clock() - self._start_s
            self._log.info("%s: done, %s documents in %.1f s", self._activity, f"{self._documents:,}", elapsed_s)

    def _log_sometimes(self) -> None:
        now_s = self._clock()
        if now_s - self._logged_s < _LOG_INTERVAL_S or not self._bytes:
            return
        self._logged_s = now_s
        left_s = (now_s - self._start_s) * (self._total_bytes - self._bytes) / self._bytes
        share = 100 * self._bytes / max(1, self._total_bytes)
        self._log.info(
            "%s: %.0f %%, %s documents, about %.0f s left", self._activity, share, f"{self._documents:,}", left_s
        )
