"""Read the docstrings of the standard library, from which the examples with records are made, and upload the result."""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from corpora import documented_nodes, sources, upload
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Storage


@dataclass(frozen=True)
class Docstring:
    """The docstring of a class or a function."""

    module: str
    name: str
    text: str


@cache
def read_docstrings() -> list[Docstring]:
    """Read each docstring once, in an order that mixes modules and is always the same."""
    found = {
        text: Docstring(module, node.name, text)
        for module, source in sources()
        for node in documented_nodes(source)
        if not isinstance(node, ast.Module) and (text := ast.get_docstring(node))
    }
    return sorted(found.values(), key=lambda docstring: hashlib.blake2b(docstring.text.encode()).digest())


def to_jsonl(rows: Iterable[dict[str, Any]]) -> bytes:
    """Render one JSON object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def main(build_files: Callable[[], dict[str, bytes]], description: str) -> int:
    """Build the files, upload them and print how many records they hold."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("destination", help="a folder, or s3://bucket/prefix")
    destination = parser.parse_args().destination
    files = build_files()
    try:
        upload(files, destination, Storage())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, data in files.items():
        print(f"{len(data.splitlines()):,} records to {destination}/{name}")
    return 0
