"""The pages name files that are there: links between pages, and paths in backticks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
    """Tell whether the path is there; a bare name may be anywhere in a package or in the tests."""
    is_bare = "/" not in path and folder in WITH_BARE_NAMES
    return any(folder.rglob(path)) if is_bare else (folder / path).exists()
