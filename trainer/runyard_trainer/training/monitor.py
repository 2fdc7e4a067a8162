"""Show the progress of a run while it trains, and take signals to stop it.

Rank 0 serves /progress (JSON, `contract.reports.Progress`) and /metrics (Prometheus), read-only, on the pod's own
address. The rows of metrics.csv are collected here and saved in checkpoints, so that after a resume each step is there
once.
"""

from __future__ import annotations

import csv
import io
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from runyard_trainer.contract.reports import PROGRESS_PORT, CommittedCheckpoint, Progress, Stage
from runyard_trainer.contract.times import format_duration, format_milliseconds

METRICS_COLUMNS = ("step", "tokens", "loss", "learning_rate", "grad_norm", "tokens_per_second", "time")
"""Columns of metrics.csv."""

SPEED_WINDOW_STEPS = 50
LOG_INTERVAL_S = 10.0

_log = logging.getLogger(__name__)


class StopRequest:
    """A flag that SIGTERM and SIGINT set; they do nothing else.

    Ranks get the signal at different moments, and one that left the loop alone would leave the others waiting. So
    `requested` is summed over the ranks together with each step's loss. Where the sum is above zero, all ranks see it
    at the end of the same step, save together, and end with `Interrupted`.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def install(self) -> None:
        """Handle the signals from now on; only in the main thread."""
        signal.signal(signal.SIGTERM, self._handle)
        signal.signal(signal.SIGINT, self._handle)

    @property
    def requested(self) -> bool:
        """Whether this rank has got a signal to stop."""
        return self._event.is_set()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._event.set()


class Monitor:
    """The progress and metrics of a run. Every rank has one; only rank 0's is served and logs.

    Args:
        attempt: the attempt's number.
        total_steps: steps of the whole run.
        is_rank_0: whether this one logs.
        now: returns the time in seconds since the epoch.
    """

    def __init__(
        self, attempt: int, total_steps: int, *, is_rank_0: bool = True, now: Callable[[], float] = time.time
    ) -> None:
        self._is_rank_0 = is_rank_0
        self._now = now
        self._lock = threading.Lock()
        self._rows: list[str] = []
        self._recent: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW_STEPS + 1)
        self._logged_at = float("-inf")
        self._step_began = now()
        self._trained_s: dict[int, float] = {}
        self._server: ThreadingHTTPServer | None = None
        self._gauges = _Gauges()
        self._progress = Progress(
            stage="starting", attempt=attempt, total_steps=total_steps, last_heartbeat_time=format_milliseconds(now())
        )

    @property
    def progress(self) -> Progress:
        """The newest progress."""
        with self._lock:
            return self._progress

    def set_stage(self, stage: Stage) -> None:
        """Set what the run is doing from now on."""
        self._recent.clear()
        self._step_began = self._now()
        self._update(stage=stage)
        if self._is_rank_0:
            _log.info("stage: %s", stage)

    def set_resolved(self, resolved: dict[str, str]) -> None:
        """Set what each automatic value was resolved to."""
        self._update(resolved=resolved)

    def set_checkpoint(self, checkpoint: CommittedCheckpoint | None) -> None:
        """Set the newest committed checkpoint."""
        committed_s = self._trained_s.get(checkpoint.step) if checkpoint else None
        if checkpoint is None or committed_s is None:  # of an earlier attempt
            self._update(checkpoint=checkpoint)
            return
        self._update(checkpoint=checkpoint, committed_seconds=committed_s)
        self._trained_s = {step: seconds for step, seconds in self._trained_s.items() if step >= checkpoint.step}

    def set_stalled(self, since: str | None) -> None:
        """Set since when the run stalls; None: it goes on. This is no heartbeat."""
        with self._lock:
            self._progress = self._progress.model_copy(update={"stalled_since": since})

    def record_step(self, step: int, loss: float, tokens: int, learning_rate: float, grad_norm: float) -> None:
        """Record a step.

        Args:
            step: optimizer steps done, this one included.
            loss: nats per token of this step, over all ranks.
            tokens: trained on so far, over all ranks and attempts.
            learning_rate: of this step.
            grad_norm: before clipping.
        """
        now = self._now()
        speed, eta_s = self._measure(step, tokens, now)
        trained_s = self._progress.training_seconds + now - self._step_began
        self._step_began, self._trained_s[step] = now, trained_s
        self._rows.append(_to_row(step, tokens, loss, learning_rate, grad_norm, speed, now))
        self._update(
            step=step,
            tokens=tokens,
            loss=loss,
            tokens_per_second=speed,
            eta_seconds=None if eta_s is None else round(eta_s),
            training_seconds=trained_s,
        )
        if self._is_rank_0 and (now - self._logged_at >= LOG_INTERVAL_S or step == self._progress.total_steps):
            self._logged_at = now
            _log.info("%s", format_progress(self.progress))

    def metrics_csv(self) -> str:
        """Return the content of metrics.csv: each step once."""
        return ",".join(METRICS_COLUMNS) + "\n" + "".join(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what resumes: the rows, as one string (see `checkpointer.State`), and the step they end with."""
        progress = self.progress
        return {"rows": "".join(self._rows), "step": progress.step, "tokens": progress.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._rows = state["rows"].splitlines(keepends=True)
        self._recent.clear()
        self._update(step=state["step"], tokens=state["tokens"])

    def serve(self, address: str, port: int = PROGRESS_PORT) -> int:
        """Serve /progress and /metrics in a daemon thread until `close`.

        Returns:
            The port, which matters where `port` is 0.
        """
        self._server = ThreadingHTTPServer((address, port), _handler_of(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="progress", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def metrics_text(self) -> bytes:
        """Return /metrics in Prometheus' text format."""
        return self._gauges.render(self.progress)

    def _measure(self, step: int, tokens: int, now: float) -> tuple[float | None, float | None]:
        """Return tokens per second over the last steps, and the seconds until the last step at that pace."""
        self._recent.append((now, tokens))
        then, tokens_then = self._recent[0]
        steps, elapsed_s = len(self._recent) - 1, now - then
        if steps == 0 or elapsed_s <= 0:
            return None, None
        return (tokens - tokens_then) / elapsed_s, (self._progress.total_steps - step) * elapsed_s / steps

    def _update(self, **fields: Any) -> None:
        with self._lock:
            heartbeat = format_milliseconds(self._now())
            self._progress = self._progress.model_copy(update={**fields, "last_heartbeat_time": heartbeat})


class _Gauges:
    """Progress as Prometheus gauges."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._step = self._gauge("step", "Optimizer steps done")
        self._total_steps = self._gauge("total_steps", "Steps in the whole run")
        self._tokens = self._gauge("tokens", "Tokens trained on so far, over all attempts")
        self._speed = self._gauge("tokens_per_second", "Tokens per second over the last steps, all ranks together")
        self._loss = self._gauge("loss", "Training loss of the last step, nats per token")
        self._checkpoint = self._gauge("checkpoint_step", "Step of the newest committed checkpoint")

    def render(self, progress: Progress) -> bytes:
        self._step.set(progress.step)
        self._total_steps.set(progress.total_steps)
        self._tokens.set(progress.tokens)
        self._speed.set(_or_nan(progress.tokens_per_second))
        self._loss.set(_or_nan(progress.loss))
        self._checkpoint.set(progress.checkpoint.step if progress.checkpoint else 0)
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"runyard_trainer_{name}", text, registry=self._registry)


def format_progress(progress: Progress) -> str:
    """Format progress as one line of the log."""
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.eta_seconds is not None:
        parts.append(f"{format_duration(progress.eta_seconds)} left")
    return ", ".join(parts)


def _handler_of(monitor: Monitor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer("application/json", monitor.progress.to_json().encode())
            elif self.path == "/metrics":
                self._answer(CONTENT_TYPE_LATEST, monitor.metrics_text())
            else:
                self.send_error(404)

        def log_message(self, *_: Any) -> None:
            """Log nothing: the operator polls every few seconds."""

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _to_row(
    step: int, tokens: int, loss: float, learning_rate: float, grad_norm: float, speed: float | None, now: float
) -> str:
    line = io.StringIO()
    cells = (step, tokens, repr(loss), repr(learning_rate), repr(grad_norm), "" if speed is None else f"{speed:.1f}")
    csv.writer(line, lineterminator="\n").writerow((*cells, format_milliseconds(now)))
    return line.getvalue()


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
