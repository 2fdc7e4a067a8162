"""Make records for token-classification.yaml: words of docstrings, with exceptions, constants and terms tagged.

    python examples/token_classification_records.py FOLDER | s3://bucket/prefix

    token-classification/docstrings.jsonl
        {"tokens": ["Raise", "KeyError", "in", "the", "event", "loop"],
         "tags":   ["O", "B-EXCEPTION", "O", "O", "B-TERM", "I-TERM"]}

The same Python gives the same bytes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

from corpora import keep_prose
from docstrings import main, read_docstrings, to_jsonl

TERMS = (
    ("command", "line"), ("context", "manager"), ("current", "working", "directory"), ("event", "loop"),
    ("file", "descriptor"), ("file", "object"), ("keyword", "argument"), ("keyword", "arguments"),
    ("regular", "expression"), ("source", "code"), ("base", "class"), ("line", "number"),
)  # fmt: skip
CONSTANTS = frozenset({"None", "True", "False"})
MAX_WORDS = 80

_WORD = re.compile(r"\w+|[^\w\s]")
_EXCEPTION = re.compile(r"[A-Z]\w*(Error|Exception|Warning)")


def build_files() -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    paragraphs = (paragraph for each in read_docstrings() for paragraph in keep_prose(each.text).split("\n\n"))
    tagged = ((words, list(tag_words(words))) for paragraph in paragraphs if (words := _WORD.findall(paragraph)))
    rows = [{"tokens": words, "tags": tags} for words, tags in tagged if len(words) <= MAX_WORDS and set(tags) != {"O"}]
    return {"token-classification/docstrings.jsonl": to_jsonl(rows)}


def tag_words(words: Sequence[str]) -> Iterator[str]:
    """Tag each word in the BIO scheme."""
    position = 0
    while position < len(words):
        kind, length = _find_entity(words[position:])
        yield from ["O"] if kind is None else [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        position += length


def _find_entity(words: Sequence[str]) -> tuple[str | None, int]:
    """Return the kind of entity that the first of these words begins, None for none, and its number of words."""
    if words[0] in CONSTANTS:
        return "CONSTANT", 1
    if _EXCEPTION.fullmatch(words[0]):
        return "EXCEPTION", 1
    for term in TERMS:
        if tuple(word.lower() for word in words[: len(term)]) == term:
            return "TERM", len(term)
    return None, 1


if __name__ == "__main__":
    sys.exit(main(build_files, "Build records for token classification from the running Python."))
