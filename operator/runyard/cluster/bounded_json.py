"""JSON that others have written, read to a bounded depth.

An object may hold JSON as deep as its author likes: 3 KB of brackets are more than Python can parse. The operator reads
nothing near `MAX_DEPTH`, so what lies deeper becomes null, and the object can still be named in an error message.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
"""A pod has some 12 levels, its managedFields included."""

_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKEN = re.compile(rf"{_STRING}|[\[\]{{}}]", re.DOTALL)
_ALL_BUT_BRACKETS = re.compile(r"[^\[\]{}]+")
_PAIR = re.compile(r"\[\]|\{\}")


def parse_json(text: str) -> Any:
    """Parse JSON text, with null for what is nested deeper than `MAX_DEPTH`. Raises ValueError."""
    return json.loads(bound_json(text))


def bound_json(text: str) -> str:
    """Return JSON text with null for what is nested deeper than `MAX_DEPTH`."""
    return _cut(text) if _is_too_deep(text) else text


def _is_too_deep(text: str) -> bool:
    has_escaped_quotes = '\\"' in text
    outside = re.sub(_STRING, "", text, flags=re.DOTALL) if has_escaped_quotes else "".join(text.split('"')[::2])
    brackets = _ALL_BUT_BRACKETS.sub("", outside)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = _PAIR.sub("", brackets)
    return bool(brackets)


def _cut(text: str) -> str:
    kept, depth, begin = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(text[begin : token.start()])
        elif token[0] in ("]", "}"):
            if depth == MAX_DEPTH + 1:
                kept.append("null")
                begin = token.end()
            depth -= 1
    return "".join([*kept, text[begin:]])
