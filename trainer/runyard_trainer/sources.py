"""The text of a run: list its files, read them as documents, and say by file and line what is wrong with them.

    DataSource (object or prefix) ─> SourceFile (one object, with its etag) ─> bytes ─(gz, zst)─> Document

Everything streams: at most one document is in memory. What is wrong is gathered while reading and raised at the end, so
that a person sees all of it at once; no document is handed on after the first one that is wrong.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import zstandard

from runyard_trainer.contract import DataSource, Storage
from runyard_trainer.outcome import ExitCode, UserError
from runyard_trainer.storage import Location, NotFound, open_store

MAX_DOCUMENT_BYTES = 64 << 20
"""Of one document: it is tokenized in memory."""

_SHOWN_PROBLEMS = 10
_JSONL_ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class SourceFile:
    """One object with text."""

    location: Location
    etag: str
    size_bytes: int
    format: Literal["text", "jsonl"]
    text_column: str


@dataclass(frozen=True)
class Document:
    """A text that stands by itself."""

    text: str
    source: str
    """Where it was read: a URI, with the line where there are several."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from."""
        return not self.text.strip()


class _Problem(Exception):  # noqa: N818 - gathered, and raised as one UserError
    """Something wrong at one place."""


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
            format=_format_of(info.key) if source.format == "auto" else source.format,
            text_column=source.columns.text,
        )
        for info in infos
    ]


def _format_of(key: str) -> Literal["text", "jsonl"]:
    name = key.lower().removesuffix(".gz").removesuffix(".zst")
    return "jsonl" if name.endswith(_JSONL_ENDINGS) else "text"


# -------------------------------------------------------------------------------------------------------------- reading


def read_documents(
    files: Sequence[SourceFile], on_read: Callable[[int], object] = lambda _: None
) -> Iterator[Document]:
    """Every document of the files in order, empty ones too.

    Args:
        files: what to read.
        on_read: told of bytes read from storage, as they come.

    Raises:
        UserError: DATA_ERROR after the last file, if any line was wrong.
    """
    problems: list[str] = []
    num_problems = 0
    for file in files:
        for item in _read_file(file, on_read):
            if isinstance(item, Document):
                if not num_problems:
                    yield item
                continue
            num_problems += 1
            if num_problems <= _SHOWN_PROBLEMS:
                problems.append(str(item))
    if num_problems > _SHOWN_PROBLEMS:
        problems.append(f"... and {num_problems - _SHOWN_PROBLEMS} more like these ({num_problems} in all)")
    if problems:
        raise UserError("\n".join(problems), ExitCode.DATA_ERROR)


def _read_file(file: SourceFile, on_read: Callable[[int], object]) -> Iterator[Document | _Problem]:
    uri = file.location.uri
    read = _read_lines if file.format == "jsonl" else _read_text
    try:
        with file.location.open(on_read) as raw, _decompress(raw, uri) as stream:
            yield from read(stream, uri, file.text_column)
    except NotFound:
        yield _Problem(f"{uri}: it was deleted while it was read")
    except (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError) as error:
        yield _Problem(f"{uri}: its compression is damaged: {error}")


def _read_text(stream: BinaryIO, uri: str, _: str) -> Iterator[Document | _Problem]:
    data = stream.read(MAX_DOCUMENT_BYTES + 1)
    try:
        _check_size(data)
        yield Document(data.decode("utf-8-sig"), uri)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield _Problem(f"{uri}:{line}: {_explain(error)}. If it is not text, keep it out of the prefix")
    except _Problem as problem:
        yield _Problem(f"{uri}: {problem}. A text file is one document: split it, or write JSONL, one document a line")


def _read_lines(stream: BinaryIO, uri: str, text_column: str) -> Iterator[Document | _Problem]:
    number = 0
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        place = f"{uri}:{number}"
        try:
            _check_size(line)
            yield Document(_parse_record(line.rstrip(), text_column) if line.strip() else "", place)
        except _Problem as problem:
            yield _Problem(f"{place}: {problem}")
            if len(line) > MAX_DOCUMENT_BYTES:
                return


def _parse_record(line: bytes, text_column: str) -> str:
    try:
        record = json.loads(line.decode("utf-8-sig"))
        if not isinstance(record, dict):
            raise _Problem(f"expected a JSON object, found {_name_of(record)}")
        if text_column not in record:
            found = ", ".join(sorted(record)[:8]) or "nothing"
            raise _Problem(f"no field {text_column!r}, found {found}: name the text's field in columns.text")
        text = record[text_column]
        if not isinstance(text, str):
            raise _Problem(f"field {text_column!r} is {_name_of(text)}, not a string")
        text.encode()
    except UnicodeDecodeError as error:
        raise _Problem(_explain(error)) from error
    except UnicodeEncodeError as error:
        raise _Problem(f"field {text_column!r} has half of a surrogate pair at character {error.start}") from error
    except json.JSONDecodeError as error:
        raise _Problem(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise _Problem(f"not usable JSON: {error}") from error
    return text


def _check_size(data: bytes) -> None:
    if len(data) > MAX_DOCUMENT_BYTES:
        raise _Problem(f"a document of more than {MAX_DOCUMENT_BYTES >> 20} MiB")


def _explain(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"


def _name_of(value: object) -> str:
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
