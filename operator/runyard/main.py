"""The operator process: `python -m runyard operator`.

    kopf (watches, writes nothing) ── namespace/name ──> Workers' queue ──> Reconciler, while we hold the Lease

Watch errors that kopf cannot mend end the process. Kubernetes starts it again, and nothing is lost, as all state is in
the API server. Upon SIGTERM the workers stop first, then the lease is released, so that a successor begins at once.

Settings come from the environment, which is read here alone:

| variable | default | meaning |
|---|---|---|
| RUNYARD_TRAINER_IMAGE | (required) | image of pods whose run names none |
| RUNYARD_STORAGE_ENDPOINT | AWS | URL of the S3 server |
| RUNYARD_STORAGE_REGION | us-east-1 | |
| RUNYARD_STORAGE_ADDRESSING | virtual | `path` or `virtual` |
| RUNYARD_STORAGE_SECRET_NAME | runyard-s3 | Secret with the S3 keys, in each run's namespace |
| RUNYARD_DEFAULT_CPU, RUNYARD_DEFAULT_MEMORY | 1, 4Gi | of training pods whose run asks for none |
| RUNYARD_PREPARE_CPU, RUNYARD_PREPARE_MEMORY | 1, 4Gi | of preparing pods whose run asks for none |
| RUNYARD_NAMESPACES | all | namespaces to serve, separated by commas |
| RUNYARD_PROGRESS_INTERVAL_SECONDS | 5 | how often a training run is asked how far it is |
| RUNYARD_PROBE_PORT, RUNYARD_METRICS_PORT | 8081, 8080 | /healthz and /readyz; /metrics |
| RUNYARD_LOG_FORMAT, RUNYARD_LOG_LEVEL | text, INFO | `text` or `json`, one line a record |
| POD_NAME, POD_NAMESPACE | host name, default | holder and place of the Lease `runyard-operator` |
| POD_IP | 127.0.0.1 | address that the two ports listen on |
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
from runyard_trainer.contract.exits import UserError

from runyard.cluster.client import ApiError, connect
from runyard.cluster.kueue import KueueReader
from runyard.cluster.lease import Lease, LeaseKey
from runyard.cluster.progress import ProgressReader
from runyard.cluster.runs import Cluster, NotLeaderError, require_crd
from runyard.cluster.watch import Watch
from runyard.cluster.watch_cache import WatchCache
from runyard.control.budgets import Bookkeeper
from runyard.control.reconcile import ApplyError, Reconciler
from runyard.control.wakeups import Wakeups
from runyard.control.work_queue import Workers
from runyard.decide.values import Key, Settings
from runyard.serving.logs import configure_logging
from runyard.serving.metrics import Metrics
from runyard.serving.probes import serve_metrics, serve_probes

logger = logging.getLogger(__name__)

LEASE_NAME = "runyard-operator"

WATCHES_END_S = 10
"""How long the watches may take to end. kopf waits for ever where a stream asks for new credentials meanwhile."""


@dataclass(frozen=True)
class Config:
    """The settings of the process, as parsed from the environment."""

    settings: Settings
    namespaces: tuple[str, ...]
    """To serve; empty: all."""
    lease: LeaseKey
    address: str
    probe_port: int
    metrics_port: int


def read_config(environment: Mapping[str, str]) -> Config:
    """Parse the environment. Raises UserError that names the variable."""
    settings = Settings(
        trainer_image=_required(environment, "RUNYARD_TRAINER_IMAGE"),
        storage_endpoint=environment.get("RUNYARD_STORAGE_ENDPOINT") or None,
        storage_region=environment.get("RUNYARD_STORAGE_REGION", "us-east-1"),
        storage_addressing=environment.get("RUNYARD_STORAGE_ADDRESSING", "virtual"),
        storage_secret_name=environment.get("RUNYARD_STORAGE_SECRET_NAME", "runyard-s3"),
        default_cpu=environment.get("RUNYARD_DEFAULT_CPU", "1"),
        default_memory=environment.get("RUNYARD_DEFAULT_MEMORY", "4Gi"),
        prepare_cpu=environment.get("RUNYARD_PREPARE_CPU") or "1",
        prepare_memory=environment.get("RUNYARD_PREPARE_MEMORY") or "4Gi",
        progress_interval_s=_number(environment, "RUNYARD_PROGRESS_INTERVAL_SECONDS", 5),
    )
    if settings.storage_addressing not in ("path", "virtual"):
        raise UserError(f"RUNYARD_STORAGE_ADDRESSING is {settings.storage_addressing!r}: set it to path or virtual")
    return Config(
        settings=settings,
        namespaces=tuple(filter(None, environment.get("RUNYARD_NAMESPACES", "").replace(" ", "").split(","))),
        lease=LeaseKey(
            namespace=environment.get("POD_NAMESPACE", "default"),
            name=LEASE_NAME,
            identity=environment.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}",
        ),
        address=environment.get("POD_IP", "127.0.0.1"),
        probe_port=int(_number(environment, "RUNYARD_PROBE_PORT", 8081)),
        metrics_port=int(_number(environment, "RUNYARD_METRICS_PORT", 8080)),
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(name):
        return value
    raise UserError(f"{name} is not set: see the table in runyard/main.py")


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}: it must be a number") from None


def run() -> None:
    """Run the operator until SIGTERM or SIGINT; exit 1 where it cannot go on, so that Kubernetes starts it again."""
    try:
        configure_logging(os.environ.get("RUNYARD_LOG_FORMAT", "text"), os.environ.get("RUNYARD_LOG_LEVEL", "INFO"))
        asyncio.run(operate(read_config(os.environ)))
    except (UserError, ApiError) as error:
        logger.error("%s", error)  # noqa: TRY400 - a person can mend it: a traceback would only hide the message
        sys.exit(1)
    except Exception:
        logger.exception("the operator cannot go on")
        sys.exit(1)


async def operate(config: Config) -> None:
    """Watch, lead and reconcile until SIGTERM or SIGINT. Raises the error that makes it impossible to go on."""
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(connect(metrics.request_tracer()))
        pods = await stack.enter_async_context(aiohttp.ClientSession())
        await require_crd(kube)
        clock = asyncio.get_running_loop().time

        def note_leadership(leads: bool) -> None:
            metrics.set_leader(leads)
            if not leads:
                bookkeeper.forget()

        lease = Lease(kube, config.lease, on_change=note_leadership)
        cluster, wakeups = Cluster(kube, lease.is_leader), Wakeups(lambda key: workers.queue.add(key))
        bookkeeper = Bookkeeper(
            cluster,
            config.lease.namespace,
            config.lease.identity,
            later=lambda name, delay_s: budget_workers.queue.add_after(name, delay_s),
            wake=wakeups.wake,
        )
        cache = WatchCache(clock)
        reconciler = Reconciler(
            cluster=cluster,
            progress=ProgressReader(pods, config.settings.progress_interval_s, clock),
            kueue=KueueReader(kube, clock),
            cache=cache,
            metrics=metrics,
            wakeups=wakeups,
            budgets=None if config.namespaces else bookkeeper,
            settings=config.settings,
            instance=config.lease.identity,
        )
        workers: Workers[Key] = Workers(
            reconciler, gate=lease.wait_until_leader, expected_errors=(ApiError, ApplyError, NotLeaderError)
        )
        budget_workers: Workers[str] = Workers(
            bookkeeper.reconcile,
            gate=lease.wait_until_leader,
            expected_errors=(ApiError, NotLeaderError),
            num_workers=1,
        )
        metrics.watch_queue(lambda: len(workers.queue))
        watch = Watch(
            kube,
            workers.queue.add,
            cache,
            wakeups.wake,
            budget_workers.queue.add,
            config.namespaces,
            config.lease.identity,
        )
        await stack.enter_async_context(serve_probes(config.address, config.probe_port, watch.is_ready))
        await stack.enter_async_context(serve_metrics(config.address, config.metrics_port, metrics.render))
        await _run_until_signal([workers.run(), budget_workers.run()], lease, watch)


async def _run_until_signal(work: Sequence[Coroutine[Any, Any, None]], lease: Lease, watch: Watch) -> None:
    """Work until a signal. Then stop the workers, release the lease, and end the watches, which is slow."""
    stop = asyncio.Event()
    watching = await watch.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    workers = [asyncio.create_task(each, name="workers") for each in work]
    electing = asyncio.create_task(lease.run(), name="lease")
    stopping = asyncio.create_task(stop.wait(), name="stop signal")
    try:
        await asyncio.wait({watching, *workers, electing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*workers, electing, stopping):
            task.cancel()
        ended = await asyncio.gather(*workers, electing, stopping, return_exceptions=True)
        await lease.release()
        watch.stop()
        await asyncio.wait({watching}, timeout=WATCHES_END_S)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    if watching.done():
        watching.result()
    if not stop.is_set():
        raise RuntimeError("the watches ended by themselves")
