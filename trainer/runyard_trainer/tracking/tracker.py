"""Send news of a run to `tracking.mlflow` in a thread: training never waits for the server, or fails by it.

Only committed steps are sent, so that a step which the next attempt repeats is sent once. News hold everything up to a
commit; what the server has of it already is read when the run is opened. After a failure the run is opened again with
the next news, which hold what was not sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import Interrupted
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.tracking.scalars import read_scalars
from runyard_trainer.training.best_model import Candidate

if TYPE_CHECKING:
    from runyard_trainer.tracking.mlflow import MlflowRun, Status
    from runyard_trainer.training.monitor import Monitor
    from runyard_trainer.training.state import TrainState

_PATIENCE_S = 300.0
"""How long sending all news may take."""
_FINISH_PATIENCE_S = 60.0
"""How long a finished run waits for its last news to be sent: no attempt sends them later."""
_STOP_PATIENCE_S = 5.0
"""How long an unfinished attempt waits, which its launcher ends after ten seconds; or one whose server fails."""
_LAST_TRIES = 3
_RETRY_PAUSE_S = 2.0
_MAX_PARAM_CHARACTERS = 500
"""Length of a parameter's value that servers of any version accept."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """All that a tracking server gets of a run, up to a step."""

    up_to_step: int
    """The newest committed step; -1: none is committed."""
    metrics_csv: str
    before: Losses | None
    measured: tuple[Candidate, ...]
    params: Mapping[str, str]
    """Values that are the same in every attempt."""
    tags: Mapping[str, str]
    """Values that may change from attempt to attempt."""


@dataclass(frozen=True)
class NewsSource:
    """What news are read from, in the thread that trains."""

    recipe: Recipe
    monitor: Monitor
    state: TrainState
    prepared: Mapping[str, str]
    """What was resolved when the data were prepared: parameters, the same in every attempt."""
    settings: Mapping[str, str]
    """All that was resolved, `prepared` included: what an attempt has added is a tag, and may change."""

    def read(self, up_to_step: int) -> News:
        """Return all that there is up to a step."""
        return News(
            up_to_step=up_to_step,
            metrics_csv=self.monitor.metrics_csv(),
            before=self.state.losses_before,
            measured=tuple(self.state.candidates),
            params=build_params(self.recipe, self.prepared),
            tags={f"runyard.{name}": value for name, value in self.settings.items() if name not in self.prepared},
        )


class Tracker:
    """A thread that sends news to `tracking.mlflow`, on rank 0 of a run that names it; elsewhere it is idle."""

    def __init__(self, recipe: Recipe, context: RunContext) -> None:
        self._mlflow = recipe.tracking.mlflow if context.world.rank == 0 else None
        self._context = context
        self.url: str | None = None
        """The run's page, once the server has answered."""
        self._source: NewsSource | None = None
        self._news: News | None = None
        self._last_status: Status | None = None
        self._changed = threading.Event()
        self._has_tried = threading.Event()
        self._run: MlflowRun | None = None
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def follow(self, source: NewsSource) -> None:
        """Take news from `source` from now on."""
        self._source = source

    def update(self, up_to_step: int) -> None:
        """Send news up to a committed step (-1: none is), where the step or a measurement is new."""
        if self._mlflow is None or self._source is None:
            return
        last = self._news
        num_measured = len(self._source.state.measured)
        if last is None or last.up_to_step < up_to_step or len(last.measured) < num_measured:
            self.send(self._source.read(up_to_step))

    def send(self, news: News) -> None:
        """Have the thread send these news, in place of those that it has not sent yet."""
        self._news = news
        self._changed.set()

    def wait_for_page(self) -> str | None:
        """Return the run's page; None where nothing is tracked, or the server fails or does not answer for a while.

        Only a run of a few seconds waits here: it may be done before the server has answered for the first time.
        """
        if self._mlflow is not None:
            self._has_tried.wait(_FINISH_PATIENCE_S)
        return self.url

    def __enter__(self) -> Tracker:
        if self._mlflow is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mlflow is None:
            return
        self._last_status = "FINISHED" if error is None else "SCHEDULED" if isinstance(error, Interrupted) else "FAILED"
        self._changed.set()
        is_worth_waiting = error is None and not self._is_failing
        self._thread.join(_FINISH_PATIENCE_S if is_worth_waiting else _STOP_PATIENCE_S)
        if self._thread.is_alive() and not self._is_failing:
            log.warning("tracking.mlflow: its server does not answer; metrics.csv has what it was not told")

    def _work(self) -> None:
        status: Status | None = None
        while status is None:
            self._changed.wait()
            self._changed.clear()
            status = self._last_status  # before the news are read: the last ones hold everything
            tries = _LAST_TRIES if status is not None and not self._is_failing else 1
            while tries > 0 and not self._try_to_send(status):
                tries -= 1
                if tries > 0:
                    time.sleep(_RETRY_PAUSE_S)

    def _try_to_send(self, last_status: Status | None) -> bool:
        try:
            asyncio.run(self._report(self._news, last_status))
        except Exception as error:  # noqa: BLE001 - the run goes on, whatever a foreign server makes of this
            self._note_failure(error)
            return False
        finally:
            self._has_tried.set()
        self._is_failing = False
        return True

    async def _report(self, news: News | None, last_status: Status | None) -> None:
        from runyard_trainer.tracking.mlflow import open_mlflow  # deferred: few runs are tracked

        assert self._mlflow is not None
        async with (
            asyncio.timeout(_PATIENCE_S),
            open_mlflow(self._mlflow, self._context.mlflow_credentials) as client,
        ):
            run = self._run
            if run is None:
                run = await client.open_run(self._context.run_uid, self._context.run_name)
                self.url = client.page_of(run)
                self._has_tried.set()
            if news is not None:
                await client.describe(run, news.params, news.tags)
                scalars = read_scalars(news.metrics_csv, news.before, news.measured)
                await client.log(run, (each for each in scalars if each.step <= news.up_to_step))
            # each time: an attempt that this one has fenced out may have set its own end last
            await client.set_status(run, last_status or "RUNNING")
            self._run = run

    def _note_failure(self, error: Exception) -> None:
        self._run = None
        if not self._is_failing:
            why = str(error) or f"no answer within {_PATIENCE_S:.0f} s"
            log.warning(
                "tracking.mlflow: %s. Training goes on; what is missed is in metrics.csv, and told once this passes",
                why,
            )
        self._is_failing = True


def build_params(recipe: Recipe, resolved: Mapping[str, str]) -> dict[str, str]:
    """Return the recipe's fields by path, lists as JSON, and what was resolved when the data were prepared."""
    asked = recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"storage", "tracking"})
    flat = _flatten(asked, "")
    return {
        re.sub(r"[^\w\-. /]", "_", name)[:250]: value[:_MAX_PARAM_CHARACTERS]
        for name, value in (*flat, *((f"resolved.{name}", value) for name, value in resolved.items()))
    }


def _flatten(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)
