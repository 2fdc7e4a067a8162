"""Read text files, which are one document each, and JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from runyard_trainer.contract.data import Columns
from runyard_trainer.data.sources import rows
from runyard_trainer.data.sources.rows import BadRecord, Problem, Row, check_size, explain, name_of_type


def read_text(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read a whole file as one row."""
    data = stream.read(rows.MAX_ROW_BYTES + 1)
    try:
        check_size(len(data))
        yield Row({columns.text: data.decode("utf-8-sig")}, uri, columns)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield Problem(f"{uri}:{line}: {explain(error)}. If it is not text, keep it out of the prefix")
    except BadRecord as error:
        yield Problem(f"{uri}: {error}. A text file is one document: split it, or write JSONL, one document a line")


def read_jsonl(stream: BinaryIO, uri: str, columns: Columns) -> Iterator[Row | Problem]:
    """Read one JSON object a line; empty lines are skipped."""
    number = 0
    while line := stream.readline(rows.MAX_ROW_BYTES + 1):
        number += 1
        place = f"{uri}:{number}"
        try:
            check_size(len(line))
            if line.strip():
                yield Row(_parse_object(line.rstrip()), place, columns)
        except BadRecord as error:
            is_whole = len(line) <= rows.MAX_ROW_BYTES
            yield Problem(f"{place}: {error}", is_row=is_whole)
            if not is_whole:
                return


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadRecord(explain(error)) from error
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, thousands of brackets
        raise BadRecord(f"not usable JSON: {error}") from error
    return check_object(record)


def check_object(record: object) -> dict[str, Any]:
    """Return a JSON value if it is an object; raises BadRecord."""
    if not isinstance(record, dict):
        raise BadRecord(f"expected a JSON object, found {name_of_type(record)}")
    return record
