"""Texts with classes that are wrong: told by file and line, with the remedy, when the run is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.bad_records import explain, prepare_lines

GOOD = {"text": "a good dog", "label": "good"}

CASES: dict[str, tuple[Any, str]] = {
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


@pytest.mark.parametrize(("row", "want"), CASES.values(), ids=CASES.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, row: Any, want: str) -> None:
    assert explain(tmp_path, "classification", GOOD, row) == f"data.jsonl:2: {want}"


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    rows = [GOOD, *(row for row, _ in list(CASES.values())[:3])]
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
