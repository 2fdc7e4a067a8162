"""In which order the classes of texts are the outputs of a model."""

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
