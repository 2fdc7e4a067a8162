"""The images' Dockerfiles, as far as they can be read without an engine that builds them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from runyard.decide.manifests import USER_ID

ROOT = Path(__file__).parents[2]
IMAGES = ["operator", "trainer"]


def read(image: str) -> str:
    return (ROOT / image / "Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES)
def test_the_user_is_a_number_that_has_a_name(image: str) -> None:
    text = read(image)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == [f"{USER_ID}:{USER_ID}"], "runAsNonRoot reads numbers"
    entry = re.search(r'echo "(\S+)" >> /etc/passwd', text)
    assert entry is not None
    name, _, uid, gid, *_ = entry[1].split(":")
    assert (uid, gid) == (str(USER_ID), str(USER_ID))
    assert f"ENV USER={name}\n" in text
    assert text.index("/etc/passwd") < text.index("\nUSER "), "only root may write it"


@pytest.mark.parametrize("image", IMAGES)
def test_pip_is_the_one_that_the_project_is_installed_with_before_it_installs_anything(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [pinned] = [each for each in project["optional-dependencies"]["local"] if each.startswith("pip==")]
    text = read(image)
    assert f"pip install --upgrade {pinned}\n" in text
    assert text.index(f"--upgrade {pinned}") < text.index(f".[{image}]")
