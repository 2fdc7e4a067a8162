"""A Python beside ours that has another package: a peer or a server that a test compares with or speaks to."""

from __future__ import annotations

import hashlib
import site
import subprocess
import venv
from importlib import metadata
from pathlib import Path

from runyard_local.programs.cache import cache_dir


def install_beside(name: str, requirement: str, version: str) -> Path:
    """Install `requirement` at `version` once, over the packages that are here, and return its interpreter."""
    folder = cache_dir() / f"{name}-{version}-over-{_digest_packages()}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        _lay_over_ours(folder)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{requirement}=={version}"], check=True)
        (folder / "complete").touch()
    _lay_over_ours(folder)  # each time: the clone that installed it may be gone, with the packages beneath
    return python


def _lay_over_ours(folder: Path) -> None:
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "beneath.pth").write_text("\n".join(site.getsitepackages()) + "\n")


def _digest_packages() -> str:
    """Return a digest of the versions that are installed here."""
    found = sorted({f"{each.name}=={each.version}" for each in metadata.distributions()})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]
