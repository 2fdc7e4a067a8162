"""The cache of built and downloaded programs, which all instances share. Removing it loses time only."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Return $RUNYARD_CACHE, or `runyard` in the user's cache folder."""
    named = os.environ.get("RUNYARD_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "runyard"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder of the cache to fill it, waiting for other processes; it need not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def make_scratch(folder: Path) -> Iterator[Path]:
    """Make a temporary folder beside `folder`, to move finished files from; remove those that killed builds left."""
    prefix = f".{folder.name}-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as scratch:
        yield Path(scratch)
