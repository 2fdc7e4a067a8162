"""Rows, as one line, one text file or one row of a table holds them, and the problems that they can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runyard_trainer.contract.data import Columns

MAX_ROW_BYTES = 64 << 20
"""The largest size of one row: it is tokenized in memory."""


class BadRecord(Exception):  # noqa: N818 - gathered, and raised as one UserError
    """An error in a row; the message says what is wrong, and the reader adds the place."""


@dataclass(frozen=True)
class Row:
    """The fields of one line, text file or row of a table, not yet known to be a record."""

    fields: dict[str, Any]
    place: str
    """Where the row was read: a URI, with the line or row where there are several."""
    columns: Columns
    record_format: str | None = None
    """The format of its records, where the recipe gives one."""
    source: int = 0
    """The number of its source in the recipe's list, from 0."""

    def name_of(self, field: str) -> str:
        """Return the name that this source gives to one of `Columns`' fields."""
        name: str = getattr(self.columns, field)
        return name

    def __contains__(self, field: str) -> bool:
        return self.fields.get(self.name_of(field)) is not None

    def text(self, field: str) -> str:
        """Return the string in one of `Columns`' fields.

        Raises:
            BadRecord: the field is absent or no string.
        """
        return check_text(self.value(field), self.name_of(field))

    def texts(self, field: str) -> list[str]:
        """Return the list of strings in one of `Columns`' fields.

        Raises:
            BadRecord: the field is absent or no list of strings.
        """
        return check_texts(self.value(field), self.name_of(field))

    def value(self, field: str) -> Any:
        """Return the value of one of `Columns`' fields, of any type.

        Raises:
            BadRecord: the field is absent.
        """
        name = self.name_of(field)
        if name not in self.fields:
            found = ", ".join(sorted(self.fields)[:8]) or "nothing"
            raise BadRecord(f"no field {name!r}, found {found}: name the field that holds it in columns.{field}")
        return self.fields[name]


def check_text(value: object, name: str) -> str:
    """Return a field's value if it is a string that UTF-8 can encode; raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a string")
    check_encodable(value, f"field {name!r}")
    return value


def check_texts(value: object, name: str) -> list[str]:
    """Return a field's value if it is a list of strings that UTF-8 can encode; raises BadRecord."""
    if not isinstance(value, list):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a list of strings")
    return [check_text(item, f"{name}[{i}]") for i, item in enumerate(value)]


def check_encodable(text: str, where: str) -> None:
    """Refuse a string that JSON can hold and UTF-8 cannot encode: one with half of a surrogate pair.

    Raises:
        BadRecord: with the place of the half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{where} has half of a surrogate pair at character {error.start}") from error


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a row or a file, with its place."""

    text: str
    is_row: bool = True
    """Whether it concerns one row, which can be left out; if not, the rest of the file cannot be read either."""


def check_size(num_bytes: int) -> None:
    """Refuse a row that is too large; raises BadRecord."""
    if num_bytes > MAX_ROW_BYTES:
        raise BadRecord(f"a document of more than {MAX_ROW_BYTES >> 20} MiB")


def explain(error: UnicodeDecodeError) -> str:
    """Describe which byte is not UTF-8."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"


def name_of_type(value: object) -> str:
    """Name a value's type as JSON does, or as Python does for a type that Parquet has and JSON has not."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), f"of type {type(value).__name__}")
