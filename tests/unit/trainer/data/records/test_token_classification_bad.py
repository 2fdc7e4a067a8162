"""Words with tags that are wrong: told by file and line, with the remedy, when the run is prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.bad_records import explain, prepare_lines

GOOD = {"tokens": ["the", "red", "bird"], "tags": ["O", "B-ANIMAL", "I-ANIMAL"]}

CASES: dict[str, tuple[Any, str]] = {
    "no tokens": (
        {"words": ["the"], "tags": ["O"]},
        "no field 'tokens', found tags, words: name the field that holds it in columns.tokens",
    ),
    "no tags": (
        {"tokens": ["the"], "ner": ["O"]},
        "no field 'tags', found ner, tokens: name the field that holds it in columns.tags",
    ),
    "a text for tokens": (
        {"tokens": "the red bird", "tags": ["O"]},
        "field 'tokens' is a string, not a list of strings",
    ),
    "a number among tokens": (
        {"tokens": ["the", 7], "tags": ["O", "O"]},
        "field 'tokens[1]' is a number, not a string",
    ),
    "numbers for tags": ({"tokens": ["the"], "tags": [0]}, "field 'tags[0]' is a number, not a string"),
    "a tag too few": (
        {"tokens": ["the", "bird"], "tags": ["O"]},
        "field 'tokens' has 2 words and field 'tags' has 1 tags: give each word a tag",
    ),
    "an empty word": (
        {"tokens": ["the", " "], "tags": ["O", "O"]},
        "field 'tokens[1]' is ' ': leave out words without a character",
    ),
    "a tag of another scheme": (
        {"tokens": ["the", "bird"], "tags": ["O", "S-ANIMAL"]},
        "field 'tags[1]' is 'S-ANIMAL': write O, or B- and the kind of entity at its first word and I- at its others",
    ),
    "a tag without a kind": (
        {"tokens": ["bird"], "tags": ["B-"]},
        "field 'tags[0]' is 'B-': write O, or B- and the kind of entity at its first word and I- at its others",
    ),
    "an entity that begins with I at the start": (
        {"tokens": ["bird"], "tags": ["I-ANIMAL"]},
        "field 'tags[0]' is 'I-ANIMAL' after 'O': an entity begins with 'B-ANIMAL'",
    ),
    "an entity that goes on as another kind": (
        {"tokens": ["red", "house"], "tags": ["B-ANIMAL", "I-PLACE"]},
        "field 'tags[1]' is 'I-PLACE' after 'B-ANIMAL': an entity begins with 'B-PLACE'",
    ),
    "half of a surrogate pair": (
        {"tokens": ["a", "\ud83d"], "tags": ["O", "O"]},
        "field 'tokens[1]' has half of a surrogate pair at character 0",
    ),
}


@pytest.mark.parametrize(("row", "want"), CASES.values(), ids=CASES.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, row: Any, want: str) -> None:
    assert explain(tmp_path, "token-classification", GOOD, row) == f"data.jsonl:2: {want}"


def test_a_mapped_column_is_called_by_its_own_name(tmp_path: Path) -> None:
    columns = {"tokens": "words", "tags": "ner"}
    message = explain(tmp_path, "token-classification", {"words": ["a"], "ner": ["PER"]}, columns=columns)
    assert message.startswith("data.jsonl:1: field 'ner[0]' is 'PER': write O, or B- and the kind of entity")


def test_texts_without_any_entity_are_refused(tmp_path: Path) -> None:
    message = explain(tmp_path, "token-classification", {"tokens": ["the"], "tags": ["O"]})
    assert message == "data.train: every tag is O: give texts with entities too"


def test_lines_that_are_right_are_prepared(tmp_path: Path) -> None:
    rows = [GOOD, {"tokens": [], "tags": []}, {"tokens": ["red", "red"], "tags": ["B-C", "B-C"]}, GOOD]
    prepare_lines(tmp_path, "token-classification", *rows)
    assert (tmp_path / "output" / "resolved.json").exists()
