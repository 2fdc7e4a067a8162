"""Show the progress of long steps on stderr: a moving line on a terminal, a line every 20 s elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(stderr=True, highlight=False)

_PLAIN_INTERVAL_S = 20.0


@contextmanager
def show_step(title: str) -> Iterator[None]:
    """Show `title` while the body runs, and then how long that took."""
    start = time.monotonic()
    with CONSOLE.status(f"{title} ..."):
        yield
    CONSOLE.print(f"[green]ok[/]  {title} [dim]({time.monotonic() - start:.1f} s)[/]")


@dataclass(frozen=True)
class Counter:
    """The handle of a shown count: call `advance` for each thing that is done."""

    advance: Callable[[], None]


@contextmanager
def show_count(title: str, total: int | None = None) -> Iterator[Counter]:
    """Show how many of `total` (None: unknown) are done, the time taken and the time left."""
    if CONSOLE.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=CONSOLE) as progress:
            task = progress.add_task(title, total=total)
            yield Counter(lambda: progress.advance(task))
    else:
        plain = _PlainCount(title, total)
        yield Counter(plain.advance)
        plain.print_line()


class _PlainCount:
    """A count without a terminal: one line every 20 s at most."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total
        self._done = 0
        self._start = self._printed = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        if time.monotonic() - self._printed >= _PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            self.print_line()

    def print_line(self) -> None:
        elapsed_s = time.monotonic() - self._start
        line = f"{self._title}: {self._done}"
        if self._total is not None:
            left_s = elapsed_s / max(1, self._done) * max(0, self._total - self._done)
            line += f" of {self._total}, about {left_s:.0f} s left"
        CONSOLE.print(f"{line} ({elapsed_s:.0f} s)")
