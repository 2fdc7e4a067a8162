"""How far a long read is, as lines of a log: a pod has no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

_INTERVAL_S = 10.0


class ProgressLog:
    """Logs share done, documents, and the time that is left, every ten seconds and at the end."""

    def __init__(
        self, log: logging.Logger, what: str, total_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._what = what
        self._total_bytes = total_bytes
        self._clock = clock
        self._bytes = 0
        self._documents = 0
        self._start_s = self._logged_s = clock()

    def advance(self, num_bytes: int) -> None:
        """So many more bytes were read."""
        self._bytes += num_bytes
        self._log_sometimes()

    def count_document(self) -> None:
        """One more document is done."""
        self._documents += 1
        self._log_sometimes()

    def __enter__(self) -> ProgressLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            elapsed_s = self._clock() - self._start_s
            self._log.info("%s: done, %s documents in %.1f s", self._what, f"{self._documents:,}", elapsed_s)

    def _log_sometimes(self) -> None:
        now_s = self._clock()
        if now_s - self._logged_s < _INTERVAL_S or not self._bytes:
            return
        self._logged_s = now_s
        left_s = (now_s - self._start_s) * (self._total_bytes - self._bytes) / self._bytes
        share = 100 * self._bytes / max(1, self._total_bytes)
        self._log.info(
            "%s: %.0f %%, %s documents, about %.0f s left", self._what, share, f"{self._documents:,}", left_s
        )
