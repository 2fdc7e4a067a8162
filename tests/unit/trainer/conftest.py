"""Where most tests of preparing begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.places import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Make a store in a folder, with nothing in it."""
    return Place.in_folder(tmp_path)
