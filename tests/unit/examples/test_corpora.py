"""The corpora that the demo builds from the running Python."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from corpora import Document, build_code, build_files, build_general, keep_prose, strip_docstrings, upload
from runyard_trainer.contract.services import Storage

SMALL = {"general_bytes": 200_000, "held_out_bytes": 20_000, "code_bytes": 150_000}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return build_files(**SMALL)


def texts_of(files: dict[str, bytes], name: str) -> list[str]:
    return [json.loads(line)["text"] for line in files[name].splitlines()]


def test_the_same_python_gives_the_same_bytes_in_the_same_order(files: dict[str, bytes]) -> None:
    assert list(build_files(**SMALL).items()) == list(files.items())


def test_each_corpus_fills_its_size_and_is_no_larger() -> None:
    for documents, limit in (
        (build_general(is_held_out=False, max_bytes=200_000), 200_000),
        (build_general(is_held_out=True, max_bytes=20_000), 20_000),
        (build_code(150_000), 150_000),
    ):
        assert 0.9 * limit < sum(document.size_bytes for document in documents) <= limit


def test_no_module_or_topic_is_in_both_general_parts() -> None:
    def origins(documents: list[Document]) -> set[str]:
        return {document.origin for document in documents}

    trained, held_out = (build_general(side, max_bytes=10**8) for side in (False, True))
    assert origins(trained).isdisjoint(origins(held_out))
    assert {document.text for document in trained}.isdisjoint(document.text for document in held_out)


def test_no_held_out_docstring_is_in_the_source_code(files: dict[str, bytes]) -> None:
    code = [data for name, data in files.items() if name.startswith("code/")]
    for text in texts_of(files, "general-held-out/docstrings.jsonl"):
        assert not any(text.encode() in data for data in code)


def test_source_code_still_parses_without_its_docstrings(files: dict[str, bytes]) -> None:
    names = [name for name in files if name.startswith("code/")]
    assert len(names) > 5
    for name in names:
        for node in ast.walk(ast.parse(files[name])):
            if isinstance(node, ast.Module | ast.ClassDef):
                assert ast.get_docstring(node) is None, name


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ('"""Module."""\n\nx = 1\n', "x = 1\n"),
        ('def f():\n    """Say.\n\n    More.\n    """\n    return 1\n', "def f():\n    return 1\n"),
        ('class C:\n    """Only this."""\n', "class C:\n    ...\n"),
        ("# comment\nx = 'text'\n", "# comment\nx = 'text'\n"),
        ('def f(): "On one line."\n', 'def f(): "On one line."\n'),
    ],
    ids=["a module's", "a function's", "a body of nothing else", "no docstring", "on the line of its definition"],
)
def test_stripping_takes_out_docstrings_alone(source: str, want: str) -> None:
    assert strip_docstrings(source) == want


def test_prose_is_kept_and_examples_tables_and_signatures_are_not() -> None:
    prose = "Return the sum.\n\n    It is a number, as\n    one would expect."
    text = f"{prose}\n\n    >>> add(1, 2)\n    3\n\nadd(x, y, /) -> z"
    assert keep_prose(text) == "Return the sum.\n\nIt is a number, as\none would expect."


def test_the_files_are_uploaded_below_the_destination(tmp_path: Path, files: dict[str, bytes]) -> None:
    upload(files, str(tmp_path), Storage())
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(files)
