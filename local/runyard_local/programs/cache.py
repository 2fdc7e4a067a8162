"""The cache: what was built or downloaded once and serves every instance. Removing it loses time only."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """$RUNYARD_CACHE, or `runyard` in the user's cache."""
    named = os.environ.get("RUNYARD_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "runyard"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Wait for and hold the right to fill a folder of the cache; it need not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def make_scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, to rename finished files from. Those that killed builds left are removed."""
    prefix = f".{folder.name}-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
        yield Path(scratch)
