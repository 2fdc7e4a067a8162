"""The pages name what is there: links between pages, paths in backticks, and the fields in the README."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *(ROOT / "docs").rglob("*.md")]
PACKAGES = [ROOT / "trainer" / "runyard_trainer", ROOT / "operator" / "runyard", ROOT / "local" / "runyard_local"]
WITH_BARE_NAMES = [*PACKAGES, ROOT / "tests"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    paths = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|yaml|toml|md)|[\w-]+\.py)`", text)
    folders = [ROOT, page.parent, *WITH_BARE_NAMES]
    assert [path for path in paths if not any(is_in(folder, path) for folder in folders)] == []


def is_in(folder: Path, path: str) -> bool:
    """Return whether the path is there; a bare name may be anywhere in a package or in the tests."""
    is_bare = "/" not in path and folder in WITH_BARE_NAMES
    return any(folder.rglob(path)) if is_bare else (folder / path).exists()


def test_the_fields_in_the_readme_are_those_of_the_crd() -> None:
    crd = yaml.safe_load((ROOT / "crds" / "runyard.dev_trainingruns.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    table = (ROOT / "README.md").read_text().split("| field | what it does |")[1].split("\n\n")[0]
    fields = re.findall(r"`(\w+(?:\.\w+(?:\[\])?)+)`", re.sub(r"`status\.\w+`", "", table))
    assert len(fields) > 10
    assert [field for field in fields if not has_field(spec, field.split("."))] == []


def has_field(schema: dict[str, Any], path: list[str]) -> bool:
    for name in path:
        schema = schema.get("items", schema).get("properties", {}).get(name.removesuffix("[]"), {})
    return bool(schema)
