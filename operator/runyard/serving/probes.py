"""HTTP for the kubelet and for Prometheus: /healthz, /readyz and /metrics, read only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serve_probes(address: str, port: int, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve /healthz, which answers while the event loop runs, and /readyz, which answers 503 until `is_ready()`."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok") if is_ready() else web.Response(text="not watching yet", status=503)

    async with _serve(address, port, web.get("/healthz", healthz), web.get("/readyz", readyz)):
        yield


@asynccontextmanager
async def serve_metrics(address: str, port: int, render: Callable[[], bytes]) -> AsyncIterator[None]:
    """Serve /metrics in Prometheus' text format."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), content_type="text/plain", charset="utf-8")

    async with _serve(address, port, web.get("/metrics", metrics)):
        yield


@asynccontextmanager
async def _serve(address: str, port: int, *routes: web.RouteDef) -> AsyncIterator[None]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
        yield
    finally:
        await runner.cleanup()
