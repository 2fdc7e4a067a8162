"""Make records for classification.yaml: docstrings, labelled with the package that they are from.

    python examples/classification_records.py FOLDER | s3://bucket/prefix

    classification/docstrings.jsonl    {"text": "Wait until the event loop ...", "label": "asyncio"}

The same Python gives the same bytes.
"""

from __future__ import annotations

import sys

from corpora import keep_prose
from docstrings import main, read_docstrings, to_jsonl

PACKAGES = frozenset({"asyncio", "email", "importlib", "logging", "tkinter", "xml"})
"""The packages with the most docstrings, on different subjects."""

MIN_CHARACTERS = 40


def build_files() -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    labelled = ((keep_prose(each.text), each.module.partition(".")[0]) for each in read_docstrings())
    rows = [
        {"text": text, "label": package}
        for text, package in labelled
        if package in PACKAGES and len(text) >= MIN_CHARACTERS
    ]
    return {"classification/docstrings.jsonl": to_jsonl(rows)}


if __name__ == "__main__":
    sys.exit(main(build_files, "Build records for classification from the running Python."))
