"""Wait for a condition with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_POLL_S = 0.1


def wait_until(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Poll `condition` until it holds; False when `deadline_s` seconds have passed without."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= end:
            return False
        pause.wait(_POLL_S)
    return True
