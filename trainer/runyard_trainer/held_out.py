"""The losses on held-out data in the course of a run, as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class HeldOut:
    """Points of (step, loss); step 0 is the model as it came."""

    domain: Sequence[tuple[int, float]] = ()
    general: Sequence[tuple[int, float]] = ()
    exported_step: int | None = None
