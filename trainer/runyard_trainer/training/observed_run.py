"""What is seen of a run from outside while it trains: the stage it is in, its numbers, and whether it hangs.

loop ─(stage)─> Monitor: /progress, /metrics, the log           loop ─(stage, step)─> Watchdog: stacks, STALLED
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from runyard_trainer.context import RunContext
from runyard_trainer.contract.reports import PodReport, Stage
from runyard_trainer.storage.base import Location
from runyard_trainer.training.monitor import Monitor
from runyard_trainer.training.watchdog import Watchdog, handle_stall

log = logging.getLogger(__name__)


class ObservedRun:
    """A run's monitor and watchdog, and the stages that both follow."""

    def __init__(self, monitor: Monitor, watchdog: Watchdog) -> None:
        self.monitor = monitor
        self.watchdog = watchdog
        self._enclosing: Stage | None = None

    @contextmanager
    def stage(self, stage: Stage, what: str | None = None) -> Iterator[None]:
        """Report `stage` while the body runs, and afterwards the stage around it, where there is one.

        Args:
            stage: what /progress names.
            what: what the body does, such as "the evaluation after 20 steps", where the watchdog is to bound it.
        """
        enclosing, self._enclosing = self._enclosing, stage
        self.monitor.set_stage(stage)
        with self.watchdog.watching(what) if what is not None else nullcontext():
            yield
        self._enclosing = enclosing
        if enclosing is not None:
            self.monitor.set_stage(enclosing)


@contextmanager
def observe_run(
    total_steps: int, output: Location, context: RunContext, end_process: Callable[[PodReport], None]
) -> Iterator[ObservedRun]:
    """Serve the run's progress on rank 0, and watch every rank for stalls, until the body ends.

    Args:
        total_steps: of the whole run.
        output: where `output.uri` lies: stacks of a stall go below it.
        context: whose run this is, and how long nothing may go on.
        end_process: ends a process that hangs, from another thread, with a report of why.
    """
    monitor = Monitor(context.attempt, total_steps, is_rank_0=context.world.rank == 0)
    if context.world.rank == 0:
        serve_progress(monitor, context)
    on_stall = partial(
        handle_stall, output=output, context=context, set_stalled=monitor.set_stalled, end_process=end_process
    )
    watchdog = Watchdog(context.stall_s, on_stall, on_recovery=partial(monitor.set_stalled, None))
    try:
        yield ObservedRun(monitor, watchdog)
    finally:
        watchdog.close()
        monitor.close()


def serve_progress(monitor: Monitor, context: RunContext) -> None:
    """Serve progress over HTTP. Without pods, runs side by side share an address, and only the first one serves."""
    try:
        monitor.serve(context.pod_ip)
    except OSError as error:
        log.warning("progress is not served: %s:%s", context.pod_ip, error)
