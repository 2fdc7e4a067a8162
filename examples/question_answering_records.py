"""Make records for question-answering.yaml: docstrings, and the question what their function returns.

    python examples/question_answering_records.py FOLDER | s3://bucket/prefix

    question-answering/docstrings.jsonl    in the format of SQuAD
        {"id": "abc.get_cache_token", "question": "What does get_cache_token return?",
         "context": "Returns the current ABC cache token. The token is an opaque object ...",
         "answers": {"text": ["the current ABC cache token"], "answer_start": [8]}}

The same Python gives the same bytes.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from docstrings import Docstring, main, read_docstrings, to_jsonl

MAX_CHARACTERS = 1000
"""Longest docstring that is used."""

_ANSWER = re.compile(r"\bReturns? (.{1,80}?)[.:;](?=\s|$)", re.DOTALL)


def build_files() -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    rows = [row for docstring in read_docstrings() if (row := _to_row(docstring))]
    return {"question-answering/docstrings.jsonl": to_jsonl(rows)}


def _to_row(docstring: Docstring) -> dict[str, Any] | None:
    answer = _ANSWER.search(docstring.text)
    if answer is None or len(docstring.text) > MAX_CHARACTERS:
        return None
    return {
        "id": f"{docstring.module}.{docstring.name}",
        "context": docstring.text,
        "question": f"What does {docstring.name} return?",
        "answers": {"text": [answer[1]], "answer_start": [answer.start(1)]},
    }


if __name__ == "__main__":
    sys.exit(main(build_files, "Build records for question answering from the running Python."))
