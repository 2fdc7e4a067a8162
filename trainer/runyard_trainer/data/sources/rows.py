"""A row: what one line, one text file or one row of a table holds, and what can be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runyard_trainer.contract.data import Columns

MAX_ROW_BYTES = 64 << 20
"""Of one row: it is tokenized in memory."""


class BadRecord(Exception):  # noqa: N818 - gathered, and raised as one UserError
    """Something is wrong with a row; the message says what, the reader where."""


@dataclass(frozen=True)
class Row:
    """What one line, or one text file, holds: not yet known to be a record."""

    fields: dict[str, Any]
    place: str
    """Where it was read: a URI, with the line where there are several."""
    columns: Columns
    record_format: str | None = None
    """What the source says that its records are."""
    source: int = 0
    """Which of the listed sources it is of."""

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
    check_encodable(value, f"field {name!r}")
    return value


def check_texts(value: object, name: str) -> list[str]:
    """A field's value, if it is a list of such strings; raises BadRecord."""
    if not isinstance(value, list):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a list of strings")
    return [check_text(item, f"{name}[{i}]") for i, item in enumerate(value)]


def check_encodable(text: str, where: str) -> None:
    """Refuse what JSON can write and UTF-8 cannot.

    Raises:
        BadRecord: with its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"{where} has half of a surrogate pair at character {error.start}") from error


@dataclass(frozen=True)
class Problem:
    """Something wrong, with its place."""

    text: str
    is_row: bool = True
    """Whether it is one row that can be left out; otherwise what follows in the file cannot be read either."""


def check_size(num_bytes: int) -> None:
    """Raises BadRecord for a row that is too large."""
    if num_bytes > MAX_ROW_BYTES:
        raise BadRecord(f"a document of more than {MAX_ROW_BYTES >> 20} MiB")


def explain(error: UnicodeDecodeError) -> str:
    """Which byte is wrong."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start}"


def name_of_type(value: object) -> str:
    """JSON's word for a value's type; Python's for what JSON does not have and Parquet does."""
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
