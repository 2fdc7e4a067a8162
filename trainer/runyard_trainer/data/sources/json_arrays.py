"""Read JSON files: one array of records, as many data sets are published, or one record a line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from io import BufferedReader
from itertools import chain, count

from runyard_trainer.contract.data import Columns
from runyard_trainer.data.sources.lines import check_object, read_jsonl
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row, check_size, explain

MAX_ARRAY_BYTES = 1 << 30
"""The largest file that is one array: it is held in memory."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HINT = (
    ". A .json file holds an array of records, or one record a line; for a file that is one document as it is, say "
    "format: text"
)
_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(stream: BufferedReader, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read an array of objects, or one object a line, as in JSONL."""
    if stream.peek(1).removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"["):
        yield from _read_array(stream, uri, columns)
        return
    rows = read_jsonl(stream, uri, columns)
    first = next(rows, None)
    if isinstance(first, Problem):  # every other line would be wrong, too
        yield replace(first, text=first.text + _HINT, is_row=False)
    elif first is not None:
        yield from chain([first], rows)


def _read_array(stream: BufferedReader, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    data = stream.read(MAX_ARRAY_BYTES + 1)
    if len(data) > MAX_ARRAY_BYTES:
        size = f"{MAX_ARRAY_BYTES >> 20:,} MiB"
        yield Problem(f"{uri}: an array of more than {size}: write JSONL, one record a line", is_row=False)
        return
    try:
        text = data.decode("utf-8-sig")
        del data
        yield from _read_items(text, uri, columns)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        yield Problem(f"{uri}:{line}: {explain(error)}", is_row=False)
    except json.JSONDecodeError as error:
        yield Problem(f"{uri}:{error.lineno}: not JSON: {error.msg} at column {error.colno}", is_row=False)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        yield Problem(f"{uri}: not usable JSON: {error}", is_row=False)


def _read_items(text: str, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read the records of an array one by one, each with its line and number; raises ValueError, RecursionError."""
    decoder, line, counted = json.JSONDecoder(), 1, 0
    position = _skip_space(text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        return _check_end(text, position + 1)
    for number in count(1):
        record, end = decoder.raw_decode(text, position)
        line += text.count("\n", counted, position)
        counted = position
        place = f"{uri}:{line} record {number}"
        try:
            check_size(end - position)
            yield Row(check_object(record), place, columns)
        except BadRecord as error:
            yield Problem(f"{place}: {error}")
        position = _skip_space(text, end)
        if text[position : position + 1] == "]":
            return _check_end(text, position + 1)
        if text[position : position + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = _skip_space(text, position + 1)


def _check_end(text: str, position: int) -> None:
    if (end := _skip_space(text, position)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    assert found is not None, "it may be empty"
    return found.end()
