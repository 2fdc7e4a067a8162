"""Texts with classes: in which order these are a model's outputs, and what is said of lines that are wrong."""

from __future__ import annotations

import csv
import json
import logging
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.records.classification import LabelledTextEncoder, order_classes, parse_labelled_text
from runyard_trainer.data.sources.listing import list_sources
from runyard_trainer.data.sources.reading import read_records
from tokenizers import Tokenizer, models

from tests.unit.trainer.bad_records import explain, prepare_lines
from tests.unit.trainer.encoders import document_tokenizer


def classes_of(path: Path) -> list[str]:
    """As the encoder tells them of a file."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}, unk_token="[UNK]"))
    encoder = LabelledTextEncoder(document_tokenizer(backend, "[CLS] $A [SEP]"), 8)
    files = list_sources([DataSource(uri=f"file://{path}")], Storage(), "data.train")
    encoder.encode(list(read_records(files, parse_labelled_text)))
    labels: list[str] = encoder.describe()["labels"]
    return labels


def write(folder: Path, labels: list[Any], kind: str, field: str = "label") -> Path:
    path = folder / f"a.{kind}"
    rows = [{"text": "x", field: label} for label in labels]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", field], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("as_text", [False, True], ids=["numbers", "digits"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("count", [2, 11, 12, 101])
def test_output_i_is_class_i_where_classes_are_numbered_from_0(
    tmp_path: Path, count: int, kind: str, as_text: bool
) -> None:
    labels: list[Any] = [str(label) if as_text else label for label in range(count)]
    random.Random(count).shuffle(labels)
    assert classes_of(write(tmp_path, labels, kind)) == [str(label) for label in range(count)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_so_it_is_where_a_text_has_several_classes(tmp_path: Path, kind: str) -> None:
    labels = [[label, (label * 7 + 3) % 23] for label in range(22, -1, -1)]
    assert classes_of(write(tmp_path, labels, kind, "labels")) == [str(label) for label in range(23)]


ORDERS = {
    "a class that is in no text": ["0", "1", "3", "10", "11"],
    "from 1 on": [str(number) for number in range(1, 13)],
    "negative numbers": ["-10", "-2", "-1", "0", "1", "2", "10"],
    "signs": ["-1", "0", "+1", "+2", "+10"],
    "leading zeros": ["00", "01", "02", "09", "10", "11"],
    "one number written twice": ["01", "1", "1.0", "02", "2", "10"],
    "whole numbers as fractions": ["0.0", "1.0", "2.0", "10.0", "11.0"],
    "stars": ["0.5", "1", "1.5", "2", "10"],
    "spaces before them": [" 0", " 1", " 2", " 10"],
    "numbers beyond any machine word": ["2", "9" * 400, "1" + "0" * 400],
    "more digits than Python makes a number of": ["3", "8" * 5000],
    "numbers and names": ["0", "1", "2", "10", "other", "unknown"],
    "numbers within names": ["class1", "class10", "class2"],
    "what only looks like numbers": ["0", "1", "-", "0x10", "1.2.3", "1e3", "NaN", "inf", "²", "٣"],
    "names": ["Bad", "bad", "good", "neutral"],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_numbers_come_first_by_size_and_then_names(order: list[str]) -> None:
    assert order_classes(reversed(order)) == order
    assert order_classes(sorted(order) * 2) == order


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (range(12), ""),
        (range(1, 13), "output 0 of the model is class '1'"),
        ([0, 1, 3, 10], "output 2 of the model is class '3'"),
        ([-1, 0, 1], "output 0 of the model is class '-1'"),
        ([0, 1, 2, "other"], ""),
        (["bad", "good"], ""),
    ],
    ids=["from 0", "from 1", "a gap", "from -1", "and names", "names"],
)
def test_outputs_that_are_other_numbers_than_their_classes_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: Any, told: str
) -> None:
    with caplog.at_level(logging.WARNING):
        classes_of(write(tmp_path, list(labels), "jsonl"))
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


# --------------------------------------------------------------------------------------------------------- wrong lines


GOOD = {"text": "a good dog", "label": "good"}

BAD: dict[str, tuple[Any, str]] = {
    "both a label and labels": (
        {"text": "a dog", "label": "good", "labels": ["good"]},
        "expected one of the fields 'label' or 'labels', found both: name it in columns.label or columns.labels",
    ),
    "neither": (
        {"text": "a dog"},
        "expected one of the fields 'label' or 'labels', found neither: name it in columns.label or columns.labels",
    ),
    "a label that is null": (
        {"text": "a dog", "label": None},
        "expected one of the fields 'label' or 'labels', found neither: name it in columns.label or columns.labels",
    ),
    "an empty label": (
        {"text": "a dog", "label": ""},
        "field 'label' has a string for a class: write its name, or a whole number",
    ),
    "a fraction for a label": (
        {"text": "a dog", "label": 0.5},
        "field 'label' has a number for a class: write its name, or a whole number",
    ),
    "true for a label": (
        {"text": "a dog", "label": True},
        "field 'label' has true or false for a class: write its name, or a whole number",
    ),
    "a list for a label": (
        {"text": "a dog", "label": ["good"]},
        "field 'label' has a list for a class: write its name, or a whole number",
    ),
    "a string for labels": (
        {"text": "a dog", "labels": "good"},
        "field 'labels' is a string, not a list of classes",
    ),
    "an empty name among labels": (
        {"text": "a dog", "labels": ["good", ""]},
        "field 'labels' has a string for a class: write its name, or a whole number",
    ),
    "no text": (
        {"sentence": "a dog", "label": "good"},
        "no field 'text', found label, sentence: name the field that holds it in columns.text",
    ),
    "a number for a text": ({"text": 7, "label": "good"}, "field 'text' is a number, not a string"),
    "a list for a second text": (
        {"text": "a dog", "text_pair": ["a cat"], "label": "good"},
        "field 'text_pair' is a list, not a string",
    ),
    "half of a surrogate pair": (
        {"text": "a \ud83d dog", "label": "good"},
        "field 'text' has half of a surrogate pair at character 2",
    ),
    "no object": (["a dog", "good"], "expected a JSON object, found a list"),
    "no JSON": (b'{"text": "a dog", "label": good}', "not JSON: Expecting value at column 28"),
}


@pytest.mark.parametrize(("row", "want"), BAD.values(), ids=BAD.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, row: Any, want: str) -> None:
    assert explain(tmp_path, "classification", GOOD, row) == f"data.jsonl:2: {want}"


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    rows = [GOOD, *(row for row, _ in list(BAD.values())[:3])]
    assert [line.split(": ")[0] for line in explain(tmp_path, "classification", *rows).splitlines()] == [
        "data.jsonl:2",
        "data.jsonl:3",
        "data.jsonl:4",
    ]


def test_one_class_and_several_are_not_mixed(tmp_path: Path) -> None:
    assert explain(tmp_path, "classification", GOOD, {"text": "a dog", "labels": ["good"]}) == (
        "data.jsonl:2: this text has a list of classes (labels), and that at data.jsonl:1 has one class (label): "
        "write all of them alike"
    )


def test_a_mapped_column_is_called_by_its_own_name(tmp_path: Path) -> None:
    columns = {"text": "sentence", "label": "mood"}
    message = explain(tmp_path, "classification", {"sentence": "a dog", "mood": {}}, columns=columns)
    assert message == "data.jsonl:1: field 'mood' has an object for a class: write its name, or a whole number"


def test_a_class_alone_is_refused(tmp_path: Path) -> None:
    assert explain(tmp_path, "classification", GOOD, GOOD | {"text": "a bird"}) == (
        "data.train: every text has the class 'good': give texts of other classes too"
    )
    no_class = {"text": "a dog", "labels": []}
    assert explain(tmp_path, "classification", no_class) == (
        "data.train: no text has any class: give texts of other classes too"
    )


def test_lines_that_are_right_are_prepared(tmp_path: Path) -> None:
    rows = [GOOD, {"text": "a cat", "text_pair": "a dog", "label": 3}, b"", {"text": "a bird", "label": "bad"}]
    prepare_lines(tmp_path, "classification", *rows)
    assert (tmp_path / "output" / "resolved.json").exists()
