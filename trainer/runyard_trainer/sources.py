"""The data of a run: list its files, read them row by row, and say by file and line what is wrong with them.

    DataSource (object or prefix) ─> SourceFile (one object, with its etag) ─> bytes ─(gz, zst)─> Row ─(parse)─> record

What a record is, an objective says: `records`. Everything streams: at most one row is in memory. What is wrong is
gathered while reading and raised at the end, so that a person sees all of it at once; no record is handed on after the
first one that is wrong.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal, TypeVar

import zstandard

from runyard_trainer.contract import Columns, DataSource, Storage
from runyard_trainer.outcome import ExitCode, UserError
from runyard_trainer.storage import Location, NotFound, open_store

MAX_ROW_BYTES = 64 << 20
"""Of one row: it is tokenized in memory."""

_SHOWN_PROBLEMS = 10
_JSONL_ENDINGS = (".jsonl", ".ndjson")


T = TypeVar("T")


class BadRecord(Exception):  # noqa: N818 - gathered, and raised as one UserError
    """Something is wrong with a row; the message says what, the reader where."""


@dataclass(frozen=True)
class SourceFile:
    """One object with rows."""

    location: Location
    etag: str
    size_bytes: int
    format: Literal["text", "jsonl"]
    columns: Columns
    record_format: str | None = None
    """What its records are said to be."""


@dataclass(frozen=True)
class Row:
    """What one line, or one text file, holds: not yet known to be a record."""

    fields: dict[str, Any]
    place: str
    """Where it was read: a URI, with the line where there are several."""
    columns: Columns
    record_format: str | None = None
    """What the source says that its records are."""

    def name_of(self, field: str) -> str:
        """What this source calls one of `Columns`' fields."""
        name: str = getattr(self.columns, field)
        return name

    def __contains__(self, field: str) -> bool:
        return self.fields.get(self.name_of(field)) is not None

    def text(self, field: str) -> str:
        """The string in one of `Columns`' fields.

        Raises:
            BadRecord: there is none.
        """
        return check_text(self.value(field), self.name_of(field))

    def texts(self, field: str) -> list[str]:
        """The list of strings in one of `Columns`' fields.

        Raises:
            BadRecord: there is none.
        """
        return check_texts(self.value(field), self.name_of(field))

    def value(self, field: str) -> Any:
        """Whatever is in one of `Columns`' fields.

        Raises:
            BadRecord: there is no such field.
        """
        name = self.name_of(field)
        if name not in self.fields:
            found = ", ".join(sorted(self.fields)[:8]) or "nothing"
            raise BadRecord(f"no field {name!r}, found {found}: name the field that holds it in columns.{field}")
        return self.fields[name]


def check_text(value: object, name: str) -> str:
    """A field's value, if it is a string that has a UTF-8 form; raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"field {name!r} has half of a surrogate pair at character {error.start}") from error
    return value


def check_texts(value: object, name: str) -> list[str]:
    """A field's value, if it is a list of such strings; raises BadRecord."""
    if not isinstance(value, list):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a list of strings")
    return [check_text(item, f"{name}[{i}]") for i, item in enumerate(value)]


def list_sources(sources: Sequence[DataSource], storage: Storage, field: str) -> list[SourceFile]:
    """The files of the sources, source by source, each in order of name.

    Args:
        sources: what the recipe lists.
        storage: how to reach S3.
        field: path of that list in the recipe, for messages.

    Raises:
        UserError: DATA_ERROR where a source names nothing.
    """
    return [file for i, source in enumerate(sources) for file in _list_source(source, storage, f"{field}[{i}].uri")]


def _list_source(source: DataSource, storage: Storage, field: str) -> list[SourceFile]:
    location = open_store(source.uri, storage, field)
    try:
        infos = [location.head()] if location.prefix else list(location.list())
    except NotFound:
        infos = list(location.list())
    if not infos:
        raise UserError(
            f"{field}: nothing lies at {source.uri}: it is neither an object nor a prefix with objects below it",
            ExitCode.DATA_ERROR,
        )
    return [
        SourceFile(
            location=Location(location.store, info.key),
            etag=info.etag,
            size_bytes=info.size_bytes,
            format=source.format if source.format in ("text", "jsonl") else _format_of(info.key),
            columns=source.columns,
            record_format=None if source.format in ("auto", "text", "jsonl") else source.format,
        )
        for info in infos
    ]


def _format_of(key: str) -> Literal["text", "jsonl"]:
    name = key.lower().removesuffix(".gz").removesuffix(".zst")
    return "jsonl" if name.endswith(_JSONL_ENDINGS) else "text"


# -------------------------------------------------------------------------------------------------------------- reading


def read_records(
    files: Sequence[SourceFile], parse: Callable[[Row], T], on_read: Callable[[int], object] = lambda _: None
) -> Iterator[T]:
    """Every row of the files in order, as `parse` understands it.

    Args:
        files: what to read.
        parse: a row's record; raises BadRecord where it is none.
        on_read: told of bytes read from storage, as they come.

    Raises:
        UserError: DATA_ERROR after the last file, if any row was wrong.
    """
    problems: list[str] = []
    num_problems = 0
    for file in files:
        for item in _parse_file(file, parse, on_read):
            if not isinstance(item, _Problem):
                if not num_problems:
                    yield item
                continue
            num_problems += 1
            if num_problems <= _SHOWN_PROBLEMS:
                problems.append(item.text)
    if num_problems > _SHOWN_PROBLEMS:
        problems.append(f"... and {num_problems - _SHOWN_PROBLEMS} more like these ({num_problems} in all)")
    if problems:
        raise UserError("\n".join(problems), ExitCode.DATA_ERROR)


@dataclass(frozen=True)
class _Problem:
    """Something wrong, with its place."""

    text: str


def _parse_file(
    file: SourceFile, parse: Callable[[Row], T], on_read: Callable[[int], object]
) -> Iterator[T | _Problem]:
    for row in _read_file(file, on_read):
        if isinstance(row, _Problem):
            yield row
            continue
        try:
            yield parse(replace(row, record_format=file.record_format))
        except BadRecord as error:
            yield _Problem(f"{row.place}: {error}")


def _read_file(file: SourceFile, on_read: Callable[[int], object]) -> Iterator[Row | _Problem]:
    uri = file.location.uri
    read = _READERS[file.format]
    try:
        with file.location.open(on_read) as raw, _decompress(raw, uri) as stream:
            yield from read(stream, uri, file.columns)
    except NotFound:
        yield _Problem(f"{uri}: it was deleted while it was read")
    except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as error:
        yield _Problem(f"{uri}: its compression is damaged: {error}")


def _read_text(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | _Problem]:
    data = stream.read(MAX_ROW_BYTES + 1)
    try:
        _check_size(data)
        yield Row({columns.text: data.decode("utf-8-sig")}, uri, columns)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield _Problem(f"{uri}:{line}: {_explain(error)}. If it is not text, keep it out of the prefix")
    except BadRecord as error:
        yield _Problem(f"{uri}: {error}. A text file is one document: split it, or write JSONL, one document a line")


def _read_lines(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | _Problem]:
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        place = f"{uri}:{number}"
        try:
            _check_size(line)
            if line.strip():
                yield Row(_parse_object(line.rstrip()), place, columns)
        except BadRecord as error:
            yield _Problem(f"{place}: {error}")
            if len(line) > MAX_ROW_BYTES:
                return


_READERS = {"text": _read_text, "jsonl": _read_lines}


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecord(_explain(error)) from error
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise BadRecord(f"not usable JSON: {error}") from error
    if not isinstance(record, dict):
        raise BadRecord(f"expected a JSON object, found {name_of_type(record)}")
    return record


def _check_size(data: bytes) -> None:
    if len(data) > MAX_ROW_BYTES:
        raise BadRecord(f"a document of more than {MAX_ROW_BYTES >> 20} MiB")


def _explain(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"


def name_of_type(value: object) -> str:
    """JSON's word for a value's type."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


# -------------------------------------------------------------------------------------------------------- decompression


def _decompress(raw: io.BufferedReader, uri: str) -> BinaryIO:
    if uri.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # it reads as one; typeshed does not say so
    if uri.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(raw), buffer_size=1 << 20)
    return raw


class _ZstdReader(io.RawIOBase):
    """Decompresses frame after frame. zstandard's own reader takes a file that was cut off for a whole one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has no writable buffer to index
        while not self._pending:
            self._compressed = self._compressed or self._raw.read(64 << 10)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._pending = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes
