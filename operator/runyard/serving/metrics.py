"""The operator's own metrics, for Prometheus. No label names a run, as their number must not grow with the runs."""

from __future__ import annotations

import time
from collections import Counter as CountOf
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from runyard.api.trainingrun import GpuSeconds, Phase
from runyard.decide.values import Key


class Metrics:
    """The metrics of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = self._counter("runyard_reconciles", "Times a run was looked at", "result")
        self._reconcile_s = Histogram(
            "runyard_reconcile_seconds", "Time to look at a run and act", registry=self.registry
        )
        self._requests = self._counter("runyard_api_requests", "Requests to the API server", "method", "status")
        self._gpu_seconds = self._counter(
            "runyard_gpu_seconds",
            "GPU-seconds that runs have cost, by what became of them",
            "namespace",
            "queue",
            "kind",
        )
        self._runs = Gauge("runyard_runs", "Runs by phase, as last seen", ["phase"], registry=self.registry)
        self._leader = Gauge("runyard_leader", "1 while this replica holds the lease", registry=self.registry)
        self._queue_depth = Gauge("runyard_queue_depth", "Runs waiting to be looked at", registry=self.registry)
        self._phases: dict[Key, Phase] = {}

    def watch_queue(self, depth: Callable[[], int]) -> None:
        """Report `depth()` whenever metrics are read."""
        self._queue_depth.set_function(depth)

    def set_leader(self, leads: bool) -> None:
        """Set whether this replica leads. A standby knows no runs."""
        self._leader.set(leads)
        if not leads:
            self._phases.clear()

    def set_phase(self, key: Key, phase: Phase | None) -> None:
        """Set the phase that a run was last seen in; None: it is gone."""
        if phase is None:
            self._phases.pop(key, None)
        else:
            self._phases[key] = phase

    def count_gpu_seconds(
        self, namespace: str, queue: str | None, before: GpuSeconds | None, after: GpuSeconds | None
    ) -> None:
        """Count what a run has cost since the status before: `after` less `before`."""
        old, new = before or GpuSeconds(), after or GpuSeconds()
        for kind in ("allocated", "productive", "lost"):
            self._gpu_seconds.labels(namespace, queue or "", kind).inc(max(0, getattr(new, kind) - getattr(old, kind)))

    @contextmanager
    def timed_reconcile(self) -> Iterator[None]:
        """Count and time what happens inside; an exception counts as an error."""
        start_s = time.perf_counter()
        try:
            yield
        except Exception:
            self._reconciles.labels("error").inc()
            raise
        else:
            self._reconciles.labels("ok").inc()
        finally:
            self._reconcile_s.observe(time.perf_counter() - start_s)

    def request_tracer(self) -> aiohttp.TraceConfig:
        """Return a tracer that counts the requests of an HTTP session."""

        async def on_end(_: object, __: SimpleNamespace, params: aiohttp.TraceRequestEndParams) -> None:
            self._requests.labels(params.method, str(params.response.status)).inc()

        async def on_exception(_: object, __: SimpleNamespace, params: aiohttp.TraceRequestExceptionParams) -> None:
            self._requests.labels(params.method, "none").inc()

        tracer = aiohttp.TraceConfig()
        tracer.on_request_end.append(on_end)
        tracer.on_request_exception.append(on_exception)
        return tracer

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        counts = CountOf(self._phases.values())
        for phase in Phase:
            self._runs.labels(phase.value).set(counts[phase])
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
