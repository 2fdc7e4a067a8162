"""Read the rows of files, whatever their format, and gather what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

from runyard_trainer.contract.data import FILE_FORMATS, Columns, FileFormat
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.sources.compression import ENDINGS, DamagedErrors, decompress
from runyard_trainer.data.sources.listing import SourceFile
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row
from runyard_trainer.storage.base import NotFound

MAX_DROPPED_SHARE = 0.05
"""The largest share of wrong rows that `data.invalidRows: Drop` leaves out: more of them are no accident."""

_SHOWN_PROBLEMS = 10

T = TypeVar("T")
Reader = Callable[[Any, str, Columns], Iterator[Row | Problem]]
"""Reads a stream, the file's URI and its columns; each asks of the stream what its format needs."""


def read_records(
    files: Sequence[SourceFile], parse: Callable[[Row], T], on_read: Callable[[int], object] = lambda _: None
) -> Iterator[T]:
    """Read the record of every row of the files, in order.

    No record is yielded after the first wrong row, so that nothing is made of a part of the data; the rest is read all
    the same, to find everything that is wrong.

    Args:
        files: the files to read.
        parse: returns the record of a row; raises BadRecord where it holds none.
        on_read: called with the number of bytes read from storage, as they come.

    Raises:
        UserError: DATA_ERROR after the last file, if any row was wrong.
    """
    items = _read_items(files, parse, on_read, may_drop=False)
    return (item for item in items if not isinstance(item, Problem))


def read_records_or_problems(
    files: Sequence[SourceFile], parse: Callable[[Row], T], on_read: Callable[[int], object] = lambda _: None
) -> Iterator[T | Problem]:
    """Read the record of every row of the files, in order, or its problem where the row is wrong.

    Raises:
        UserError: DATA_ERROR after the last file, if more rows were wrong than `MAX_DROPPED_SHARE`, or a file could not
            be read to its end.
    """
    return _read_items(files, parse, on_read, may_drop=True)


def _read_items(
    files: Sequence[SourceFile], parse: Callable[[Row], T], on_read: Callable[[int], object], may_drop: bool
) -> Iterator[T | Problem]:
    problems = _Problems()
    num_rows = 0
    for file in files:
        for item in _parse_file(file, parse, on_read):
            num_rows += 1
            if isinstance(item, Problem):
                problems.add(item)
                if may_drop and item.is_row:
                    yield item
            elif may_drop or not problems.count:
                yield item
    problems.check(num_rows, may_drop)


def read_rows(file: SourceFile, on_read: Callable[[int], object] = lambda _: None) -> Iterator[Row | Problem]:
    """Read the rows of one file, not yet parsed, and a problem in place of each that cannot be read."""
    for row in _read_rows(file, on_read):
        if isinstance(row, Row):
            yield replace(row, record_format=file.record_format, source=file.source)
        else:
            yield row


def _read_rows(file: SourceFile, on_read: Callable[[int], object]) -> Iterator[Row | Problem]:
    uri = file.location.uri
    try:
        if FILE_FORMATS[file.format].is_seekable:
            yield from _read_seekable(file, on_read)
            return
        with file.location.open(on_read) as raw, decompress(raw, uri) as stream:
            yield from _find_reader(file.format)(stream, uri, file.columns)
    except NotFound:
        yield Problem(f"{uri}: it was deleted while it was read", is_row=False)
    except DamagedErrors as error:
        yield Problem(f"{uri}: its compression is damaged: {error}", is_row=False)


def _read_seekable(file: SourceFile, on_read: Callable[[int], object]) -> Iterator[Row | Problem]:
    uri = file.location.uri
    if uri.endswith(ENDINGS):
        name = file.format.capitalize()
        yield Problem(
            f"{uri}: a {name} file is compressed within and is read from its end: decompress it", is_row=False
        )
        return
    with file.location.open(on_read) as stream:
        yield from _find_reader(file.format)(stream.raw, uri, file.columns)  # pyarrow asks for just what it needs


def _find_reader(name: FileFormat) -> Reader:
    """Return `read_<format>` of the module that the format's traits name."""
    module = import_module(f"{__package__}.{FILE_FORMATS[name].reader}")
    reader: Reader = getattr(module, f"read_{name}")
    return reader


def _parse_file(file: SourceFile, parse: Callable[[Row], T], on_read: Callable[[int], object]) -> Iterator[T | Problem]:
    for row in read_rows(file, on_read):
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield parse(row)
        except BadRecord as error:
            yield Problem(f"{row.place}: {error}")


class _Problems:
    """The problems found so far: their number, and the text of the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self._num_files = 0
        self._shown: list[str] = []

    def add(self, problem: Problem) -> None:
        self.count += 1
        self._num_files += not problem.is_row
        if len(self._shown) < _SHOWN_PROBLEMS:
            self._shown.append(problem.text)

    def check(self, num_rows: int, may_drop: bool) -> None:
        """Refuse the files if there are too many problems.

        Raises:
            UserError: DATA_ERROR, with the first problems.
        """
        if not self.count or (may_drop and not self._num_files and self.count <= MAX_DROPPED_SHARE * num_rows):
            return
        lines = list(self._shown)
        if self.count > _SHOWN_PROBLEMS:
            lines.append(f"... and {self.count - _SHOWN_PROBLEMS} more like these ({self.count} in all)")
        if may_drop and not self._num_files:
            lines.insert(
                0,
                f"data.invalidRows: Drop leaves out at most {MAX_DROPPED_SHARE:.0%} of the rows, and "
                f"{self.count:,} of {num_rows:,} are wrong: mend them, or keep these files out of the sources",
            )
        raise UserError("\n".join(lines), ExitCode.DATA_ERROR)
