"""Processes that start at once: forked off a server that has imported what they need.

A process has one such server; what any collected module wants of it is imported in it.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

_context = multiprocessing.get_context("forkserver")
_preloaded = ["pytest"]


def fork_context(*modules: str) -> ForkServerContext:
    """Return what starts processes that import these. Call it when a module is imported: later it changes nothing."""
    _preloaded.extend(modules)
    _context.set_forkserver_preload(_preloaded)
    return _context


def wait_for_fork_server() -> None:
    """Wait until it has imported all: else the first start does, and an event loop that starts it stands still."""
    process = _context.Process(target=_do_nothing)
    process.start()
    process.join()


def _do_nothing() -> None:
    pass
