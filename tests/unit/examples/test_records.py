"""The labelled records that the examples build from the running Python."""

from __future__ import annotations

import json
from typing import Any

import classification_records
import pytest
import question_answering_records
import sft_records
import token_classification_records
from runyard_trainer.contract.data import Columns
from runyard_trainer.data.records.classification import parse_labelled_text
from runyard_trainer.data.records.question_answering import parse_question
from runyard_trainer.data.records.sft import parse_dialogue
from runyard_trainer.data.records.token_classification import parse_tagged_words
from runyard_trainer.data.sources.rows import Row

EXAMPLES = {
    "classification": (classification_records, parse_labelled_text),
    "token-classification": (token_classification_records, parse_tagged_words),
    "question-answering": (question_answering_records, parse_question),
    "sft": (sft_records, parse_dialogue),
}


@pytest.mark.parametrize(("name", "builder", "parse"), [(name, *parts) for name, parts in EXAMPLES.items()])
def test_there_are_many_records_and_all_are_right(name: str, builder: Any, parse: Any) -> None:
    [(path, data)] = builder.build_files().items()
    assert path == f"{name}/docstrings.jsonl"
    lines = data.splitlines()
    assert len(lines) > 500
    for number, line in enumerate(lines):
        parse(Row(json.loads(line), f"{path}:{number}", Columns()))


def test_entities_are_tagged_to_their_last_word() -> None:
    words = ["The", "event", "loop", "raises", "KeyError", "or", "None", "event", "handler"]
    assert list(token_classification_records.tag_words(words)) == [
        *("O", "B-TERM", "I-TERM", "O", "B-EXCEPTION", "O", "B-CONSTANT", "O", "O"),
    ]
