"""A Python beside ours that has another package: a peer or a server that a test compares with or speaks to."""

from __future__ import annotations

import site
import subprocess
import venv
from pathlib import Path

from runyard.local.cache import cache_dir


def install_beside(name: str, requirement: str, version: str) -> Path:
    """Its interpreter; `requirement` at `version` is installed once, over the packages that are here."""
    folder = cache_dir() / f"{name}-{version}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "beneath.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{requirement}=={version}"], check=True)
        (folder / "complete").touch()
    return python
