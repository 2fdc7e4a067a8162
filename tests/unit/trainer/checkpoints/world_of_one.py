"""A checkpointer of an attempt with one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runyard_trainer.checkpoints.checkpointer import Checkpointer
from runyard_trainer.checkpoints.head import Head
from runyard_trainer.context import World
from runyard_trainer.contract.training import Checkpoint
from runyard_trainer.storage.base import Location


def open_checkpointer(output: Location, tmp_path: Path, attempt: int = 1, **retention: Any) -> Checkpointer:
    head = Head.claim(output, "run-uid", attempt)
    return Checkpointer(output, head, World(), tmp_path / f"scratch-{attempt}", Checkpoint(**retention))
