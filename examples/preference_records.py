"""Make records for preference.yaml: docstrings cut in two; chosen is the real second half, rejected its words sorted.

    python examples/preference_records.py FOLDER | s3://bucket/prefix

    preference/docstrings.jsonl    {"prompt": "Return the ...", "chosen": " ...", "rejected": " ..."}

The same Python gives the same bytes.
"""

from __future__ import annotations

import sys

from corpora import build_general
from docstrings import main, to_jsonl

PROMPT_CHARACTERS = 120
ANSWER_CHARACTERS = 160


def build_files(max_bytes: int = 400_000) -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    texts = [" ".join(document.text.split()) for document in build_general(is_held_out=False, max_bytes=max_bytes)]
    halves = [_cut(text) for text in texts if len(text) >= PROMPT_CHARACTERS + ANSWER_CHARACTERS]
    rows = [
        {"prompt": prompt, "chosen": answer, "rejected": _disorder(answer)}
        for prompt, answer in halves
        if answer != _disorder(answer)
    ]
    return {"preference/docstrings.jsonl": to_jsonl(rows)}


def _cut(text: str) -> tuple[str, str]:
    """Cut a text into a prompt and an answer, both at the end of a word."""
    middle = text.rfind(" ", 0, PROMPT_CHARACTERS)
    end = text.rfind(" ", middle + 1, middle + ANSWER_CHARACTERS)
    return text[:middle], text[middle:end]


def _disorder(text: str) -> str:
    """Sort the words of a text."""
    return " " + " ".join(sorted(text.split()))


if __name__ == "__main__":
    sys.exit(main(build_files, "Build records for preference from the running Python."))
