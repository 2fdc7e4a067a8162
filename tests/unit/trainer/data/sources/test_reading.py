"""Text is read as documents, and what is wrong with it is said by file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from runyard_trainer.contract.data import Columns, DataSource
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.sources import json_arrays, rows
from runyard_trainer.data.sources.listing import list_sources
from runyard_trainer.data.sources.reading import read_records, read_records_or_problems
from runyard_trainer.data.sources.rows import Problem, Row

from tests.s3server import S3Server


def parse(row: Row) -> tuple[str, str]:
    return row.text("text"), row.place


def read(path: Path, text_column: str = "text") -> list[tuple[str, str]]:
    """(text, where) of every document of a file or folder."""
    source = DataSource(uri=f"file://{path}", columns=Columns(text=text_column))
    return list(read_records(list_sources([source], Storage(), "data.train"), parse))


def error_of(path: Path, text_column: str = "text") -> str:
    with pytest.raises(UserError) as caught:
        read(path, text_column)
    assert caught.value.code is ExitCode.DATA_ERROR
    return str(caught.value)


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first\n\nsecond ünïcode\n", encoding="utf-8-sig")
    assert read(tmp_path / "a.txt") == [("first\n\nsecond ünïcode\n", f"file://{tmp_path}/a.txt")]


def test_a_jsonl_file_is_a_document_a_line_with_its_line_number(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "id": 1}\n\n{"text": "zwei ü"}\n{"text": ""}')
    where = f"file://{tmp_path}/a.jsonl"
    assert read(tmp_path / "a.jsonl") == [
        ("one", f"{where}:1"),
        ("zwei ü", f"{where}:3"),
        ("", f"{where}:4"),
    ]


def test_a_prefix_is_read_in_order_of_name_and_formats_are_mixed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("B")
    (tmp_path / "a.ndjson").write_text('{"body": "A1"}\n{"body": "A2"}\n')
    (tmp_path / "sub" / "c.md").write_text("C")
    assert [text for text, _ in read(tmp_path, "body")] == ["A1", "A2", "B", "C"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_files_of_several_parts_are_read_whole(tmp_path: Path, ending: str) -> None:
    compress = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    lines = [json.dumps({"text": f"document {i} " * 50}) + "\n" for i in range(2000)]
    halves = ["".join(lines[:1000]).encode(), "".join(lines[1000:]).encode()]
    (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(map(compress, halves)))
    assert [text for text, _ in read(tmp_path)] == [f"document {i} " * 50 for i in range(2000)]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_that_was_cut_off_is_an_error(tmp_path: Path, ending: str) -> None:
    compress = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    whole = compress(b"".join(b'{"text": "%d"}\n' % i for i in range(10_000)))
    (tmp_path / f"a.jsonl{ending}").write_bytes(whole[: len(whole) // 2])
    assert error_of(tmp_path).startswith(f"file://{tmp_path}/a.jsonl{ending}: its compression is damaged: ")


def test_a_file_that_is_not_compressed_as_its_name_says_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_text("plain")
    assert error_of(tmp_path) == f"file://{tmp_path}/a.txt.gz: its compression is damaged: Not a gzipped file (b'pl')"


WRONG_LINES = {
    "broken JSON": (b'{"text": "x"', "not JSON: Expecting ',' delimiter at column 13"),
    "not an object": (b'["x"]', "expected a JSON object, found a list"),
    "no such field": (
        b'{"body": "x", "id": 1}',
        "no field 'text', found body, id: name the field that holds it in columns.text",
    ),
    "not a string": (b'{"text": null}', "field 'text' is null, not a string"),
    "a number": (b'{"text": 3}', "field 'text' is a number, not a string"),
    "not UTF-8": (b'{"text": "\xff"}', "not UTF-8: byte 0xff at offset 10"),
    "half a surrogate pair": (b'{"text": "a\\ud800"}', "field 'text' has half of a surrogate pair at character 1"),
    "too many brackets": (b"[" * 100_000, "not usable JSON: maximum recursion depth exceeded"),
}


@pytest.mark.parametrize(("line", "want"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path: Path, line: bytes, want: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' * 16 + line + b"\n")
    assert error_of(tmp_path).startswith(f"file://{tmp_path}/a.jsonl:17: {want}")


def test_wrong_lines_of_all_files_are_told_together_with_their_number(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("oops\n" * 7)
    lines = error_of(tmp_path).splitlines()
    assert [line.split(": ")[0] for line in lines[:10]] == [
        *(f"file://{tmp_path}/a.jsonl:{n}" for n in range(1, 8)),
        *(f"file://{tmp_path}/b.jsonl:{n}" for n in range(1, 4)),
    ]
    assert lines[10] == "... and 4 more like these (14 in all)"


def test_after_a_wrong_line_no_more_documents_are_handed_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\noops\n{"text": "two"}\n')
    documents = read_records(list_sources([DataSource(uri=f"file://{tmp_path}")], Storage(), "data.train"), parse)
    assert next(documents)[0] == "one"
    with pytest.raises(UserError, match="not JSON"):
        next(documents)


def test_a_text_file_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(b"line\nline\n\x89PNG")
    assert error_of(tmp_path) == (
        f"file://{tmp_path}/picture.jpg:3: not UTF-8: byte 0x89 at offset 10. "
        "If it is not text, keep it out of the prefix"
    )


def test_a_document_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 2 << 20)
    (tmp_path / "a.txt").write_bytes(b"x" * (2 << 20))
    assert len(read(tmp_path / "a.txt")) == 1
    (tmp_path / "b.txt").write_bytes(b"x" * ((2 << 20) + 1))
    assert error_of(tmp_path) == (
        f"file://{tmp_path}/b.txt: a document of more than 2 MiB. A text file is one document: split it, or write "
        "JSONL, one document a line"
    )
    (tmp_path / "b.txt").rename(tmp_path / "b.jsonl")
    assert error_of(tmp_path) == f"file://{tmp_path}/b.jsonl:1: a document of more than 2 MiB"


def test_a_source_that_names_nothing_is_told_by_its_field(tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x")
    listed = [DataSource(uri=f"file://{tmp_path}/there.txt"), DataSource(uri=f"file://{tmp_path}/missing/")]
    with pytest.raises(UserError) as caught:
        list_sources(listed, Storage(), "data.train")
    assert str(caught.value) == (
        f"data.train[1].uri: nothing lies at file://{tmp_path}/missing/: it is neither an object nor a prefix with "
        "objects below it"
    )
    assert caught.value.code is ExitCode.DATA_ERROR


def test_sources_on_s3_are_objects_prefixes_and_whole_buckets(s3: S3Server) -> None:
    bucket, client = s3.make_bucket(), s3.client()
    for key, text in {"corpus/a.txt": "A", "corpus/deep/b.txt": "B", "corpus2.txt": "C"}.items():
        client.put_object(Bucket=bucket, Key=key, Body=text.encode())
    client.put_object(Bucket=bucket, Key="corpus/", Body=b"")

    def texts(uri: str) -> list[str]:
        return [text for text, _ in read_records(list_sources([DataSource(uri=uri)], s3.storage, "data.train"), parse)]

    assert texts(f"s3://{bucket}/corpus/") == ["A", "B"]
    assert texts(f"s3://{bucket}/corpus") == ["A", "B"]
    assert texts(f"s3://{bucket}/corpus/a.txt") == ["A"]
    assert texts(f"s3://{bucket}") == ["A", "B", "C"]
    with pytest.raises(UserError, match=r"data\.train\[0\]\.uri: cannot .* there is no such bucket"):
        texts("s3://no-such-bucket/corpus/")


def test_bytes_read_are_told_as_they_come(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 1000)
    told: list[int] = []
    files = list_sources([DataSource(uri=f"file://{tmp_path}")], Storage(), "data.train")
    list(read_records(files, parse, told.append))
    assert sum(told) == 1000


# ----------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_a_document_an_item_with_its_line_and_number(
    tmp_path: Path, indent: int | None, ending: str
) -> None:
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[ending]
    array = json.dumps([{"text": "one\nü"}, {"text": "[two]"}], indent=indent, ensure_ascii=False)
    (tmp_path / f"a.json{ending}").write_bytes(compress(f"\ufeff {array}\n".encode()))
    where, lines = f"file://{tmp_path}/a.json{ending}", (1, 1) if indent is None else (2, 5)
    assert read(tmp_path / f"a.json{ending}") == [
        ("one\nü", f"{where}:{lines[0]} record 1"),
        ("[two]", f"{where}:{lines[1]} record 2"),
    ]


def test_an_empty_json_array_has_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" [ \n ] \n")
    assert read(tmp_path / "a.json") == []


def test_a_json_file_may_as_well_hold_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert [place for _, place in read(tmp_path)] == [f"file://{tmp_path}/a.json:{n}" for n in (1, 2)]


WRONG_JSON = {
    "one object": (b'{\n  "name": "x"\n}\n', ":1: not JSON: Expecting property name enclosed in double quotes at"),
    "cut off": (b'[\n{"text": "a"},\n{"text": ', ":3: not JSON: Expecting value at column 10"),
    "cut off between": (b'[\n{"text": "a"},\n', ":3: not JSON: Expecting value at column 1"),
    "no comma": (b'[{"text": "a"}\n{"text": "b"}]', ":2: not JSON: Expecting ',' delimiter at column 1"),
    "something behind": (b'[{"text": "a"}]\n[]', ":2: not JSON: Extra data at column 1"),
    "not an object": (b'[\n{"text": "a"},\n"b"]', ":3 record 2: expected a JSON object, found a string"),
    "no such field": (b'[{"body": "a"}]', ":1 record 1: no field 'text', found body"),
    "not UTF-8": (b'[\n{"text": "\xff"}]', ":2: not UTF-8: byte 0xff at offset 12"),
    "too many brackets": (b"[" * 100_000, ": not usable JSON: maximum recursion depth exceeded"),
}


@pytest.mark.parametrize(("data", "want"), WRONG_JSON.values(), ids=WRONG_JSON)
def test_what_is_wrong_with_a_json_array_is_told_with_its_place(tmp_path: Path, data: bytes, want: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    assert error_of(tmp_path).startswith(f"file://{tmp_path}/a.json{want}")


def test_a_json_file_that_is_one_document_can_be_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{\n  "name": "x"\n}\n')
    assert error_of(tmp_path).endswith("for a file that is one document as it is, say format: text")
    source = DataSource(uri=f"file://{tmp_path}", format="text")
    (document,) = read_records(list_sources([source], Storage(), "data.train"), parse)
    assert document[0] == '{\n  "name": "x"\n}\n'


def test_an_array_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_arrays, "MAX_ARRAY_BYTES", 1 << 20)
    (tmp_path / "a.json").write_text("[" + " " * (1 << 20) + "]")
    assert error_of(tmp_path).endswith("a.json: an array of more than 1 MiB: write JSONL, one record a line")


# --------------------------------------------------------------------------------------------------------------- tables


def test_a_tsv_file_is_separated_by_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.TSV.gz").write_bytes(gzip.compress(b'id\ttext\n1\tone, "and" two\n'))
    assert [text for text, _ in read(tmp_path)] == ['one, "and" two']


def test_a_csv_row_is_told_by_the_physical_line_that_it_begins_on(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'id,text\r\n1,"two\r\nlines, a comma and a ""quote"""\r\n\r\n2,plain ü\r\n3,\r\n',
        encoding="utf-8-sig",
        newline="",
    )
    where = f"file://{tmp_path}/a.csv"
    assert read(tmp_path / "a.csv") == [
        ('two\r\nlines, a comma and a "quote"', f"{where}:2"),
        ("plain ü", f"{where}:5"),
        ("", f"{where}:6"),
    ]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_csv_is_read_whole(tmp_path: Path, ending: str) -> None:
    compress = gzip.compress if ending == ".gz" else zstandard.ZstdCompressor().compress
    (tmp_path / f"a.csv{ending}").write_bytes(compress(b"body\none\ntwo\n"))
    assert [text for text, _ in read(tmp_path, "body")] == ["one", "two"]


def test_parquet_is_read_by_batches_and_row_groups_with_row_numbers(s3: S3Server) -> None:
    texts = [f"document {i} ü" for i in range(1000)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": range(1000), "text": texts}), sink, row_group_size=300, compression="zstd")
    bucket = s3.make_bucket()
    s3.client().put_object(Bucket=bucket, Key="a.parquet", Body=sink.getvalue().to_pybytes())
    told: list[int] = []
    files = list_sources([DataSource(uri=f"s3://{bucket}/a.parquet")], s3.storage, "data.train")
    found = list(read_records(files, parse, told.append))
    assert found == [(text, f"s3://{bucket}/a.parquet row {i}") for i, text in enumerate(texts, 1)]
    assert 0 < sum(told) <= 2 * files[0].size_bytes


def test_a_format_that_is_named_goes_before_the_files_ending(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("text\none\n")
    source = DataSource(uri=f"file://{tmp_path}/table", format="csv")
    assert [text for text, _ in read_records(list_sources([source], Storage(), "data.train"), parse)] == ["one"]


# ----------------------------------------------------------------------------------------------------------- wrong rows


def test_wrong_rows_can_be_left_out_and_are_told(tmp_path: Path) -> None:
    lines = [f'{{"text": "{i}"}}' for i in range(99)]
    lines.insert(40, "oops")
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    files = list_sources([DataSource(uri=f"file://{tmp_path}")], Storage(), "data.train")
    found = list(read_records_or_problems(files, parse))
    assert found.pop(40) == Problem(f"file://{tmp_path}/a.jsonl:41: not JSON: Expecting value at column 1")
    assert [item[0] for item in found if not isinstance(item, Problem)] == [str(i) for i in range(99)]


def test_more_wrong_rows_than_an_accident_leaves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' * 18 + "oops\n" * 2)
    files = list_sources([DataSource(uri=f"file://{tmp_path}")], Storage(), "data.train")
    with pytest.raises(UserError) as caught:
        list(read_records_or_problems(files, parse))
    assert str(caught.value).splitlines() == [
        "data.invalidRows: Drop leaves out at most 5% of the rows, and 2 of 20 are wrong: mend them, or keep these "
        "files out of the sources",
        f"file://{tmp_path}/a.jsonl:19: not JSON: Expecting value at column 1",
        f"file://{tmp_path}/a.jsonl:20: not JSON: Expecting value at column 1",
    ]


def test_a_file_that_ends_early_is_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "fine\n" * 99 + '"open\n')
    files = list_sources([DataSource(uri=f"file://{tmp_path}")], Storage(), "data.train")
    with pytest.raises(UserError, match=r'a\.csv:101: not CSV: a quote " that is opened here is never closed'):
        list(read_records_or_problems(files, parse))
