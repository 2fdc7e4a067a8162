"""Make two corpora from the running Python itself: no network is needed.

    python examples/corpora.py FOLDER | s3://bucket/prefix

    general/docstrings.jsonl           the prose of the standard library's docstrings and of pydoc's topics
    general-held-out/docstrings.jsonl  docstrings of other modules and other topics: to measure forgetting
    code/<module>.py                   the standard library's source without its docstrings: the new domain

The same Python gives the same bytes. All docstrings of a module are in one of the two general parts, and its source has
none, so training on the code reads nothing of the held-out part. boto3 finds S3 by AWS_ENDPOINT_URL_S3,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.open import open_store

LEFT_OUT = frozenset(
    {
        *("site-packages", "dist-packages", "lib-dynload", "__pycache__"),
        *("test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo"),
        *("encodings", "pydoc_data"),
    }
)
"""Folders of the standard library that hold other people's modules, tests or tables."""

MIN_DOCSTRING_CHARACTERS = 120
"""Shorter docstrings teach little English."""

PROSE_SHARE = 0.95
"""A paragraph counts as English if at least this share of it is letters, spaces, commas and full stops."""

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Document:
    """A text, and the module or topic that it belongs to."""

    origin: str
    text: str

    @property
    def size_bytes(self) -> int:
        """Size of the text in UTF-8."""
        return len(self.text.encode())


def build_general(is_held_out: bool, max_bytes: int) -> list[Document]:
    """Collect docstrings and topics of one side of the split, up to a size."""
    documents = (document for document in _all_general() if _is_held_out(document.origin) == is_held_out)
    return list(_take(sorted(documents, key=_shuffled), max_bytes))


def build_code(max_bytes: int) -> list[Document]:
    """Collect modules without their docstrings, up to a size."""
    return list(_take(sorted(_all_code(), key=_shuffled), max_bytes))


def strip_docstrings(source: str) -> str:
    """Remove the lines of each docstring; put `...` where a body has nothing else."""
    lines = source.splitlines(keepends=True)
    for node in documented_nodes(source):
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        first, last = docstring.lineno - 1, docstring.end_lineno
        if docstring.lineno == _definition_line(node):
            continue
        lines[first:last] = [""] * (last - first)
        if len(node.body) == 1 and not isinstance(node, ast.Module):
            lines[first] = f"{' ' * docstring.col_offset}...\n"
    return "".join(lines).strip() + "\n"


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented_nodes(source: str) -> Iterator[Documented]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Documented) and ast.get_docstring(node) is not None:
            yield node


def _definition_line(node: Documented) -> int:
    """Return the line of a definition, which a docstring on the same line shares; 0 for a module."""
    return 0 if isinstance(node, ast.Module) else node.lineno


@cache
def sources() -> list[tuple[str, str]]:
    """Read name and source of every module of the standard library, in order of name."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path for path in root.rglob("*.py") if not LEFT_OUT.intersection(path.relative_to(root).parts))
    found = ((".".join(path.relative_to(root).with_suffix("").parts), path) for path in paths)
    return [(name, path.read_text(encoding="utf-8", errors="replace")) for name, path in sorted(found)]


@cache
def _all_general() -> list[Document]:
    return [*_topics(), *_docstrings()]


def _topics() -> Iterator[Document]:
    for topic, text in sorted(topics.items()):
        yield Document(f"topic {topic}", keep_prose(text))


def _docstrings() -> Iterator[Document]:
    seen: set[str] = set()
    for name, source in sources():
        for node in documented_nodes(source):
            text = keep_prose(ast.get_docstring(node) or "")
            if len(text) >= MIN_DOCSTRING_CHARACTERS and text not in seen:
                seen.add(text)
                yield Document(name, text)


def keep_prose(text: str) -> str:
    """Keep the paragraphs that read as English: not examples, tables and signatures."""
    paragraphs = (inspect.cleandoc(paragraph) for paragraph in re.split(r"\n\s*\n", text))
    return "\n\n".join(paragraph for paragraph in paragraphs if _is_prose(paragraph))


def _is_prose(paragraph: str) -> bool:
    num_plain = sum(char.isalpha() or char in " \n,." for char in paragraph)
    return num_plain >= PROSE_SHARE * len(paragraph) > 0


@cache
def _all_code() -> list[Document]:
    return [Document(name, strip_docstrings(source)) for name, source in sources()]


def _take(documents: Iterable[Document], max_bytes: int) -> Iterator[Document]:
    left = max_bytes
    for document in documents:
        if document.size_bytes <= left:
            left -= document.size_bytes
            yield document


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _shuffled(document: Document) -> int:
    """Return a sort key that mixes modules and topics and is always the same."""
    return _digest(document.text)


def _is_held_out(origin: str) -> bool:
    return _digest(origin) < HELD_OUT_SHARE * 2**64


# -------------------------------------------------------------------------------------------------------------- upload


def build_files(
    general_bytes: int = 1_500_000, held_out_bytes: int = 60_000, code_bytes: int = 1_500_000
) -> dict[str, bytes]:
    """Build the files to upload, by name below the destination."""
    files = {
        "general/docstrings.jsonl": _to_jsonl(build_general(is_held_out=False, max_bytes=general_bytes)),
        "general-held-out/docstrings.jsonl": _to_jsonl(build_general(is_held_out=True, max_bytes=held_out_bytes)),
    }
    code = build_code(code_bytes)
    return files | {f"code/{document.origin}.py": document.text.encode() for document in code}


def upload(files: dict[str, bytes], destination: str, storage: Storage) -> None:
    """Write the files below a folder or an s3:// URI.

    Raises:
        UserError: the store cannot be reached or written.
    """
    uri = destination if "://" in destination else Path(destination).absolute().as_uri()
    location = open_store(uri, storage, "the destination")
    for name, data in files.items():
        (location / name).put(data)


def _to_jsonl(documents: list[Document]) -> bytes:
    return "".join(json.dumps({"text": document.text}) + "\n" for document in documents).encode()


def main() -> int:
    """Build the corpora, upload them and print their size."""
    parser = argparse.ArgumentParser(description="Build two corpora from the running Python.")
    parser.add_argument("destination", help="a folder, or s3://bucket/prefix")
    parser.add_argument("--general-bytes", type=int, default=1_500_000, help="training text (default: %(default)s)")
    parser.add_argument("--held-out-bytes", type=int, default=60_000, help="held-out text (default: %(default)s)")
    parser.add_argument("--code-bytes", type=int, default=1_500_000, help="source code (default: %(default)s)")
    args = parser.parse_args()
    files = build_files(args.general_bytes, args.held_out_bytes, args.code_bytes)
    try:
        upload(files, args.destination, Storage())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB, to {args.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
