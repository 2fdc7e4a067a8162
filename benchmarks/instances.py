"""An instance of `runyard local` for one benchmark alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runyard_local.instance import Instance


@contextmanager
def open_instance(*flags: str) -> Iterator[Instance]:
    """Bring an instance up with these flags of `runyard local up`, in a new directory that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as parent:
        state = Path(parent, "local")
        local = [sys.executable, "-m", "runyard", "local"]
        try:
            subprocess.run([*local, "up", "--dir", state, *flags], check=True, stdout=sys.stderr)
            instance = Instance.load(state)
            assert instance is not None
            yield instance
        finally:
            subprocess.run([*local, "down", "--delete", "--dir", state], check=True, stdout=sys.stderr)
