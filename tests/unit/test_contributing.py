"""CONTRIBUTING.md is true: its tables of layers, and its lists of files that a change touches."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from runyard_trainer.contract.data import FILE_FORMATS, DataSource, FileFormat
from runyard_trainer.contract.objectives import OBJECTIVES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
TRAINER = ROOT / "trainer" / "runyard_trainer"
LISTS = re.findall(r"^### ([^\n]*): (\d) files\n\n(.*?)(?=\n#)", PAGE, re.MULTILINE | re.DOTALL)
ITEMS = [
    (path, set(re.findall(r"`([A-Z]\w+)`", text)))
    for _, _, body in LISTS
    for item in re.split(r"^\d\. ", body.split("\n\n")[0], flags=re.MULTILINE)[1:]
    for path, text in re.findall(r"`([\w/<>]+\.py)`(.*?)(?=`[\w/<>]+\.py`|\Z)", item, re.DOTALL)
]


def test_the_lists_are_as_short_as_promised() -> None:
    most = {"A new objective": 3, "A new failure reason": 2, "A new data format": 2, "A new field of the recipe": 3}
    assert {title: int(count) for title, count, _ in LISTS} == most
    for title, count, body in LISTS:
        assert len(re.findall(r"^\d\. ", body, re.MULTILINE)) == int(count), title


@pytest.mark.parametrize(("path", "names"), ITEMS, ids=[path for path, _ in ITEMS])
def test_a_file_that_is_named_exists_and_holds_the_names(path: str, names: set[str]) -> None:
    files = list(ROOT.glob(re.sub(r"<\w+>", "*", path)))
    assert files
    text = "\n".join(file.read_text() for file in files)
    assert not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_an_objective_is_its_row_and_the_two_modules() -> None:
    for name, traits in OBJECTIVES.items():
        assert "\nKIND = " in (TRAINER / "data" / "records" / f"{traits.records}.py").read_text()
        module = TRAINER / "objectives" / f"{name.replace('-', '_')}.py"
        assert "\ndef build_objective(" in module.read_text()


def test_a_file_format_is_its_row_its_words_and_its_reader() -> None:
    assert set(FILE_FORMATS) == set(get_args(FileFormat))
    words = DataSource.model_fields["format"].description or ""
    for name, traits in FILE_FORMATS.items():
        assert f"`{name}`:" in words
        assert all(ending in words for ending in traits.endings)
        assert f"\ndef read_{name}(" in (TRAINER / "data" / "sources" / f"{traits.reader}.py").read_text()


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {each["containers"][0]: each["layers"] for each in contracts if each["type"] == "layers"}
    header, _, *rows = re.findall(
        r"^\|(.*)\|$", PAGE.split("## Who may import whom")[1].split("\n## ")[0], re.MULTILINE
    )
    columns = list(zip(*([cell.strip(" `") for cell in row.split("|")] for row in (header, *rows)), strict=True))
    packages = {"trainer": "runyard_trainer", "operator": "runyard", "local": "runyard_local"}
    for title, *lines in columns:
        want = [sorted(line.split(" | ")) for line in layers[packages[title]]]
        assert [sorted(re.findall(r"\w+", line)) for line in lines if line] == want
