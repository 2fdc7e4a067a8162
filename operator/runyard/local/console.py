"""What a person sees of a long step: a moving line on a terminal, a line at its end elsewhere. All on stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

CONSOLE = Console(stderr=True, highlight=False)


@contextmanager
def show_step(title: str) -> Iterator[None]:
    """Show `title` while the body runs, and how long it took."""
    start = time.monotonic()
    with CONSOLE.status(f"{title} ..."):
        yield
    CONSOLE.print(f"[green]ok[/]  {title} [dim]({time.monotonic() - start:.1f} s)[/]")
