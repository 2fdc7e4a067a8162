"""Wait in tests for a condition, never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_POLL_S = 0.1


def wait_until(condition: Callable[[], object], deadline_s: float) -> None:
    """Poll `condition` until it is true.

    Raises:
        TimeoutError: it was not within `deadline_s` seconds.
    """
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:.0f} s")
        pause.wait(_POLL_S)
