"""Tab-separated files: a line is a record, and quotation marks are characters."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import zstandard
from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.sources.listing import list_sources
from runyard_trainer.data.sources.reading import read_records, read_records_or_problems
from runyard_trainer.data.sources.rows import Problem, Row

COMPRESSIONS = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}

VALUES = [
    '"',
    '""',
    '"begins with a mark',
    'ends with one"',
    '"The Matrix" is good',
    'said "so" twice ""',
    '"all of it"',
    "it's '' \\ \\t, a comma; a bar|",
    " spaces ",
    "",
    "\u2028 and \x0b \x0c \x85 end no line",
]


def write(folder: Path, text: str, ending: str = ".tsv") -> Path:
    path = folder / f"a{ending}"
    compression = next(name for name in (".gz", ".zst", "") if ending.endswith(name))
    path.write_bytes(COMPRESSIONS[compression](text.encode()))
    return path


def read(path: Path, format_: str = "auto") -> list[dict[str, str]]:
    return [row.fields for row in read_rows(path, format_)]


def read_rows(path: Path, format_: str = "auto") -> list[Row]:
    source = DataSource.model_validate({"uri": f"file://{path}", "format": format_})
    return list(read_records(list_sources([source], Storage(), "data.train"), lambda row: row))


def error_of(path: Path, format_: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        read(path, format_)
    assert caught.value.code is ExitCode.DATA_ERROR
    return str(caught.value).replace(f"file://{path.parent}/", "")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("ending", [".tsv", ".TSV", ".tsv.gz", ".tsv.zst"])
def test_a_line_is_a_record_whatever_marks_it_has(tmp_path: Path, ending: str, line_end: str) -> None:
    rows = [
        [first, second, str(number)] for number, (first, second) in enumerate(zip(VALUES, VALUES[::-1], strict=True))
    ]
    lines = ["\t".join(values) for values in [["text", "other", "id"], *rows]]
    found = read_rows(write(tmp_path, "\ufeff" + line_end.join(lines), ending))
    assert [list(row.fields.values()) for row in found] == rows
    assert [row.place for row in found] == [f"file://{tmp_path}/a{ending}:{line}" for line in range(2, len(rows) + 2)]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_as_it_stands_in_every_column(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"a\tb\n{value}\tx\nx\t{value}\n{value}\t{value}\n")
    assert read(path) == [{"a": value, "b": "x"}, {"a": "x", "b": value}, {"a": value, "b": value}]


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    found = read_rows(write(tmp_path, "\ntext\tlabel\n\n\r\nthe dog\tgood\n\t\n\n"))
    assert [(row.fields, row.place.rpartition(":")[2]) for row in found] == [
        ({"text": "the dog", "label": "good"}, "5"),
        ({"text": "", "label": ""}, "6"),
    ]


WRONG = {
    "a tab too many": ("x\ty\tz", "expected 2 values, one a column of the header, found 3: a line is a record"),
    "a tab too many within marks": ('"x\ty"\tz', "expected 2 values, one a column of the header, found 3: a line is"),
    "a value too few": ("x", "expected 2 values, one a column of the header, found 1: a line is a record"),
    "a carriage return in a value": ("x\rx\ty", "a carriage return within the line: end lines with a line feed"),
    "two carriage returns at the end": ("x\ty\r\r", "a carriage return within the line: end lines with a line feed"),
}


@pytest.mark.parametrize(("line", "want"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_line_is_told_by_its_place(tmp_path: Path, line: str, want: str) -> None:
    assert error_of(write(tmp_path, f'text\tlabel\n"ok\t1\n{line}\nok"\t2\n')).startswith(f"a.tsv:3: {want}")


@pytest.mark.parametrize(("line", "want"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_line_alone_is_left_out_where_invalid_rows_are(tmp_path: Path, line: str, want: str) -> None:
    lines = [f'"{number}\t{number}' for number in range(40)]
    path = write(tmp_path, "\n".join(["text\tlabel", *lines[:20], line, *lines[20:]]))
    files = list_sources([DataSource(uri=f"file://{path}")], Storage(), "data.train")
    found = list(read_records_or_problems(files, lambda row: str(row.fields["text"])))
    assert [item for item in found if isinstance(item, str)] == [f'"{number}' for number in range(40)]
    assert [
        problem.text.replace(f"file://{tmp_path}/", "")[: len(want) + 10]
        for problem in found
        if isinstance(problem, Problem)
    ] == [f"a.tsv:22: {want}"]


def test_a_file_whose_lines_end_with_carriage_returns_is_refused(tmp_path: Path) -> None:
    assert error_of(write(tmp_path, "text\tlabel\rthe dog\tgood\r")).startswith("a.tsv:1: a carriage return within")


@pytest.mark.parametrize("header", ["text\t\tlabel", "text\ttext"])
def test_a_header_is_checked_as_that_of_csv(tmp_path: Path, header: str) -> None:
    assert error_of(write(tmp_path, f"{header}\na\tb\tc\n")).startswith("a.tsv:1: ")


# ------------------------------------------------------------------------------------------------ formats that are said


@pytest.mark.parametrize("ending", [".tsv", ".txt", ".csv", ""])
def test_tsv_can_be_said_of_any_file(tmp_path: Path, ending: str) -> None:
    assert read(write(tmp_path, 'text\tlabel\n"the, dog\tgood\n', ending), "tsv") == [
        {"text": '"the, dog', "label": "good"}
    ]


def test_a_tsv_file_that_is_quoted_as_csv_is_can_be_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path, 'text\tlabel\n"she said ""so"""\tgood\n"two\nlines"\tbad\n"a\ttab"\tbad\n')
    assert [row["text"] for row in read(path, "csv")] == ['she said "so"', "two\nlines", "a\ttab"]


@pytest.mark.parametrize("num_columns", [2, 3, 5])
@pytest.mark.parametrize("opening", range(5))
def test_rows_are_never_swallowed_where_csv_is_said_of_a_tsv_file(
    tmp_path: Path, opening: int, num_columns: int
) -> None:
    column = opening % num_columns
    rows = [[f"{row}.{number}" for number in range(num_columns)] for row in range(6)]
    rows[2][column], rows[4][column] = '"opened', 'closed"'
    path = write(tmp_path, "\n".join("\t".join(row) for row in rows))
    assert error_of(path, "csv").startswith('a.tsv:3: a quote " that is opened here is closed on a later line')
    assert len(read(path)) == 5


def test_csv_is_quoted_as_before(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n"two\nlines, a\ttab and a ""mark""",good\n', ".csv")
    assert read(path) == [{"text": 'two\nlines, a\ttab and a "mark"', "label": "good"}]
