"""Read CSV, TSV and Parquet: rows of named columns.

CSV is read by Python's own reader, because it knows the physical line on which a record begins, which pyarrow does not;
values are strings. In TSV a line is a record, whatever quotation marks it has: published data has texts that begin with
a quotation mark and never close it. Parquet is read in batches by pyarrow and keeps its types; the place of a row in it
is a number.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from runyard_trainer.contract.data import Columns
from runyard_trainer.data.sources import rows
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row, check_size, explain

_BATCH_ROWS = 256
_READ_BYTES = 8 << 20

_CSV_HINT = 'quote values with separators or line ends by "'
_TSV_HINT = (
    "a line is a record, and no value has a tab or a line end, quoted or not; a file that is quoted takes format: csv"
)
_SWALLOWED = (
    'a quote " that is opened here is closed on a later line, behind other values: where quotation marks are '
    "characters, as .tsv mostly has them, leave format: csv away or say format: tsv"
)
_CARRIAGE_RETURN = "a carriage return within the line: end lines with a line feed, and leave other carriage returns out"

csv.field_size_limit(rows.MAX_ROW_BYTES)


# ---------------------------------------------------------------------------------------------------------- CSV and TSV


def read_csv(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read a header and its records, values separated by commas (in .tsv, tabs) and quoted by `"`.

    A record may span lines. The rest of the file after a quote that is not closed is not read: nothing in it can be
    trusted.
    """
    delimiter = "\t" if re.search(r"\.tsv(\.gz|\.zst)?$", uri, re.IGNORECASE) else ","
    return _read_table(_parse_csv(_decode_lines(stream), delimiter), uri, columns, _CSV_HINT)


def read_tsv(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read a header and one record a line, values separated by tabs; quotation marks are characters."""
    return _read_table(_parse_tsv(_decode_lines(stream)), uri, columns, _TSV_HINT)


def _read_table(
    table: Iterator[tuple[int, list[str] | _Unreadable]], uri: str, columns: Columns, width_hint: str
) -> Iterator[Row | Problem]:
    """Make rows of a table's numbered records, of which the first names the columns; empty records are skipped."""
    header: list[str] | None = None
    for number, values in table:
        place = f"{uri}:{number}"
        if isinstance(values, _Unreadable):
            yield Problem(f"{place}: {values.reason}", is_row=values.is_row and header is not None)
            if not values.is_row or header is None:
                return
            continue
        if not values:
            continue
        try:
            if header is None:
                header = _check_header(values)
            else:
                _check_width(values, header, width_hint)
                yield Row(dict(zip(header, values, strict=True)), place, columns)
        except BadRecord as error:
            yield Problem(f"{place}: {error}", is_row=header is not None)
            if header is None:
                return


@dataclass(frozen=True)
class _Unreadable:
    """A record that cannot be read."""

    reason: str
    is_row: bool
    """Whether the records after it can be read."""


def _parse_csv(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | _Unreadable]]:
    """Parse the records of a CSV file, each with the number of the line on which it begins."""
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            yield number, _Unreadable(f"not CSV: {_explain_csv(error)}", is_row=False)
            return
        except BadRecord as error:
            yield number, _Unreadable(str(error), is_row=False)
            return
        if values is None:
            return
        if delimiter == "\t" and any("\t" in value and "\n" in value for value in values):
            yield number, _Unreadable(_SWALLOWED, is_row=False)
            return
        yield number, values


def _parse_tsv(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | _Unreadable]]:
    """Parse the lines of a TSV file, each with its number."""
    number = 0
    while True:
        number += 1
        try:
            line = next(lines, None)
        except BadRecord as error:
            yield number, _Unreadable(str(error), is_row=False)
            return
        if line is None:
            return
        line = line.removesuffix("\n").removesuffix("\r")
        if "\r" in line:  # which Mac files of old end lines with: then the header would hold all rows
            yield number, _Unreadable(_CARRIAGE_RETURN, is_row=True)
        else:
            yield number, line.split("\t") if line else []


def _decode_lines(stream: BinaryIO) -> Iterator[str]:
    encoding = "utf-8-sig"
    while line := stream.readline(rows.MAX_ROW_BYTES + 1):
        check_size(len(line))
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise BadRecord(f"{explain(error)} of the line. Save the file as UTF-8") from error
        encoding = "utf-8"


def _check_header(names: list[str]) -> list[str]:
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise BadRecord(f"column {empty[0]} of the header has no name: the first line names every column")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise BadRecord(f"the header names column {twice[0]!r} twice: rename one of them")
    return names


def _check_width(values: list[str], header: list[str], hint: str) -> None:
    if len(values) != len(header):
        raise BadRecord(f"expected {len(header)} values, one a column of the header, found {len(values)}: {hint}")


def _explain_csv(error: csv.Error) -> str:
    text = str(error)
    if text == "unexpected end of data":
        return 'a quote " that is opened here is never closed'
    if "field larger than" in text:
        return f'a value of more than {rows.MAX_ROW_BYTES >> 20} MiB: is a quote " not closed?'
    if "new-line character seen" in text:
        return "a carriage return outside of quotes: end lines with a line feed"
    return re.sub(r"^'(.)' expected after '(.)'$", r"after a closing quote \2 comes something other than \1", text)


# -------------------------------------------------------------------------------------------------------------- Parquet


def read_parquet(stream: Any, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read the rows of a Parquet file, numbered from 1, with the file's types; `stream` can be sought in."""
    number = 0
    try:
        file = pq.ParquetFile(stream, buffer_size=_READ_BYTES)
        if twice := _find_twice(file.schema_arrow.names):
            yield Problem(f"{uri}: two columns are named {twice!r}: rename one of them", is_row=False)
            return
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for fields in _to_rows(batch):
                number += 1
                yield _to_row(fields, f"{uri} row {number}", columns)
    except (pa.ArrowException, OSError) as error:
        where = f"{uri} after row {number}" if number else uri
        yield Problem(f"{where}: not a whole Parquet file: {str(error).rstrip('.')}. Write it again", is_row=False)


def _find_twice(names: list[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _to_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """Convert a batch to Python values; a string that is not UTF-8, which Arrow does not check, gives an error."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for i in range(batch.num_rows):
            try:
                yield batch.slice(i, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield error


def _to_row(fields: dict[str, Any] | UnicodeDecodeError, place: str, columns: Columns) -> Row | Problem:
    if isinstance(fields, UnicodeDecodeError):
        return Problem(f"{place}: {explain(fields)} of a value")
    try:
        check_size(sum(len(value) for value in fields.values() if isinstance(value, str | bytes)))
    except BadRecord as error:
        return Problem(f"{place}: {error}")
    return Row(fields, place, columns)
