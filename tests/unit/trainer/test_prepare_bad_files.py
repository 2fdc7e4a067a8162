"""Files that are not what they should be, in every format: each is told by file and line, and what to do about it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from runyard_trainer.contract.exits import ExitCode, UserError

from tests.places import Place

FINE = b'{"text": "a text that is fine"}\n'


def parquet(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def two_columns_of_one_name() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def not_utf8() -> bytes:
    """Arrow takes a writer's word for it."""
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    return parquet(text=pa.Array.from_buffers(pa.string(), 2, raw.buffers()))


def cut(compress: Callable[[bytes], bytes]) -> bytes:
    whole = compress(b"".join(b'{"text": "%d"}\n' % i for i in range(10_000)))
    return whole[: len(whole) // 2]


zst = zstandard.ZstdCompressor().compress

BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "text: a picture": (
        "a.txt",
        b"line\n\x89PNG",
        "URI:2: not UTF-8: byte 0x89 at offset 5. If it is not text, keep it out of the prefix",
    ),
    "text: UTF-16": (
        "a.txt",
        "hello".encode("utf-16"),
        "URI:1: not UTF-8: byte 0xff at offset 0. If it is not text, keep it out of the prefix",
    ),
    "jsonl: broken": ("a.jsonl", FINE + b'{"text": "x"', "URI:2: not JSON: Expecting ',' delimiter at column 13"),
    "jsonl: one JSON document over many lines": (
        "a.jsonl",
        b'[\n{"text": "x"}\n]',
        "URI:1: not JSON: Expecting value at column 2\nURI:3: not JSON: Expecting value at column 1",
    ),
    "jsonl: a list": ("a.jsonl", b'["x"]', "URI:1: expected a JSON object, found a list"),
    "jsonl: another field": (
        "a.jsonl",
        b'{"body": "x", "id": 1}',
        "URI:1: no field 'text', found body, id: name the field that holds it in columns.text",
    ),
    "jsonl: null": ("a.jsonl", FINE + b'\n{"text": null}', "URI:3: field 'text' is null, not a string"),
    "jsonl: not UTF-8": ("a.jsonl", b'{"text": "\xff"}', "URI:1: not UTF-8: byte 0xff at offset 10"),
    "jsonl: Bedrock's input is no text": (
        "a.jsonl",
        b'{"input": ["x"]}',
        "URI:1: field 'input' is a list, not a string",
    ),
    "jsonl: text and token ids": (
        "a.jsonl",
        b'{"text": "x", "input_ids": [1]}',
        "URI:1: both 'text' and 'input_ids' are there, and only one can be learned: remove one",
    ),
    "gz: cut off": (
        "a.jsonl.gz",
        cut(gzip.compress),
        "URI: its compression is damaged: Compressed file ended before the end-of-stream marker was reached",
    ),
    "gz: not compressed": (
        "a.txt.gz",
        b"plain",
        "URI: its compression is damaged: Not a gzipped file (b'pl')",
    ),
    "gz: a wrong line within": (
        "a.jsonl.gz",
        gzip.compress(FINE + b"oops"),
        "URI:2: not JSON: Expecting value at column 1",
    ),
    "zst: cut off": ("a.jsonl.zst", cut(zst), "URI: its compression is damaged: it ends within a frame"),
    "zst: not compressed": (
        "a.csv.zst",
        b"plain",
        "URI: its compression is damaged: zstd decompressor error: Unknown frame descriptor",
    ),
    "zst: a wrong line within": (
        "a.csv.zst",
        zst(b"text\nx\ny,z\n"),
        'URI:3: expected 1 values, one a column of the header, found 2: quote values with separators or line ends by "',
    ),
    "csv: too many values, after a value over lines": (
        "a.csv",
        b'id,text\n1,"two\nlines"\n2,Hello, world\n',
        'URI:4: expected 2 values, one a column of the header, found 3: quote values with separators or line ends by "',
    ),
    "csv: too few values": (
        "a.csv",
        b"id,text\n1\n",
        'URI:2: expected 2 values, one a column of the header, found 1: quote values with separators or line ends by "',
    ),
    "csv: an open quote": (
        "a.csv",
        b'id,text\n1,fine\n2,"open\n3,more\n',
        'URI:3: not CSV: a quote " that is opened here is never closed',
    ),
    "csv: text after a quote": (
        "a.csv",
        b'id,text\n1,"a "quoted" word"\n',
        'URI:2: not CSV: after a closing quote " comes something other than ,',
    ),
    "csv: semicolons": (
        "a.csv",
        b"id;text\n1;x\n",
        "URI:2: no field 'text', found id;text: name the field that holds it in columns.text",
    ),
    "csv: no header": (
        "a.csv",
        b"1,some text\n2,more text\n",
        "URI:2: no field 'text', found 1, some text: name the field that holds it in columns.text",
    ),
    "csv: a column twice": (
        "a.csv",
        b"text,text\nx,y\n",
        "URI:1: the header names column 'text' twice: rename one of them",
    ),
    "csv: a column without a name": (
        "a.csv",
        b"id,,text\n1,2,x\n",
        "URI:1: column 2 of the header has no name: the first line names every column",
    ),
    "csv: Latin-1": (
        "a.csv",
        b"text\nfine\ncaf\xe9\n",
        "URI:3: not UTF-8: byte 0xe9 at offset 3 of the line. Save the file as UTF-8",
    ),
    "csv: carriage returns alone": (
        "a.csv",
        b"text\rfirst\rsecond\r",
        "URI:1: not CSV: a carriage return outside of quotes: end lines with a line feed",
    ),
    "parquet: something else": (
        "a.parquet",
        b"plain text of some length",
        "URI: not a whole Parquet file: Parquet magic bytes not found in footer. Either the file is corrupted or this "
        "is not a parquet file. Write it again",
    ),
    "parquet: empty": (
        "a.parquet",
        b"",
        "URI: not a whole Parquet file: Parquet file size is 0 bytes. Write it again",
    ),
    "parquet: compressed once more": (
        "a.parquet.gz",
        gzip.compress(parquet(text=["x"])),
        "URI: a Parquet file is compressed within and is read from its end: decompress it",
    ),
    "parquet: null": (
        "a.parquet",
        parquet(text=["x", None, "z"]),
        "URI row 2: field 'text' is null, not a string",
    ),
    "parquet: bytes": ("a.parquet", parquet(text=[b"x"]), "URI row 1: field 'text' is of type bytes, not a string"),
    "parquet: not UTF-8": ("a.parquet", not_utf8(), "URI row 2: not UTF-8: byte 0xe9 at offset 3 of a value"),
    "parquet: a column twice": (
        "a.parquet",
        two_columns_of_one_name(),
        "URI: two columns are named 'text': rename one of them",
    ),
    "parquet: another column": (
        "a.parquet",
        parquet(content=["x"]),
        "URI row 1: no field 'text', found content: name the field that holds it in columns.text",
    ),
    "parquet: token ids that are floats": (
        "a.parquet",
        parquet(input_ids=[[1, 2], [1.5]]),
        "URI row 1: field 'input_ids' has 1.0 at place 0: token ids are whole numbers from 0\n"
        "URI row 2: field 'input_ids' has 1.5 at place 0: token ids are whole numbers from 0",
    ),
    "parquet: negative token ids": (
        "a.parquet",
        parquet(input_ids=[[1, -100]]),
        "URI row 1: field 'input_ids' has -100 at place 1: token ids are whole numbers from 0",
    ),
    "parquet: a document without tokens": (
        "a.parquet",
        parquet(input_ids=[[1], []]),
        "URI row 2: field 'input_ids' is an empty list: leave the row out",
    ),
    "parquet: one token id for a list": (
        "a.parquet",
        parquet(input_ids=[7]),
        "URI row 1: field 'input_ids' is a number, not a list of token ids",
    ),
    "parquet: token ids of another tokenizer": (
        "a.parquet",
        parquet(input_ids=[[1], [299, 300]]),
        "URI row 2: token id 300 is beyond the 300 tokens of the run's tokenizer: make the ids with the tokenizer of "
        "the model, or give the text itself",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """With a model: nothing has to be trained first."""
    folder = tmp_path_factory.mktemp("bad-files")
    made = Place.in_folder(folder)
    made.put_model()
    return made


def error_of(place: Place, tmp_path: Path, name: str, data: bytes, **sections: object) -> str:
    (tmp_path / name).write_bytes(data)
    train = {"train": [{"uri": f"file://{tmp_path}/{name}"}], "validation": {"fraction": 0}}
    output = {"uri": f"file://{tmp_path}/out"}
    recipe = place.recipe(**{"model": {"uri": f"{place.base}/model"}, "data": train, "output": output} | sections)
    with pytest.raises(UserError) as caught:
        place.prepare(recipe)
    assert caught.value.code is ExitCode.DATA_ERROR
    assert not (tmp_path / "out" / "resolved.json").exists()
    return str(caught.value).replace(f"file://{tmp_path}/{name}", "URI")


@pytest.mark.parametrize(("name", "data", "want"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_told_by_line_with_what_is_wrong(
    place: Place, tmp_path: Path, name: str, data: bytes, want: str
) -> None:
    assert error_of(place, tmp_path, name, data) == want


def test_a_tokenizer_cannot_be_trained_on_token_ids(place: Place, tmp_path: Path) -> None:
    model = place.recipe().model.model_dump(by_alias=True, exclude_none=True)
    assert error_of(place, tmp_path, "a.parquet", parquet(input_ids=[[1, 2]]), model=model) == (
        "URI row 1: the text is tokenized already, so no tokens can be learned from it: name the tokenizer that made "
        "the ids in model.scratch.tokenizer.uri, or leave model.extendVocabulary away"
    )
