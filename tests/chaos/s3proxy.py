"""A proxy before the S3 server that does to its client what networks and stores do on a bad day.

It passes on what it gets as it is, the Host header too: that is what the signature covers. It runs in a thread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from runyard_trainer.contract.services import Storage
from yarl import URL

REFUSALS = {500: "InternalError", 503: "SlowDown"}
STORM_CALLS = 200
SHARE = 0.15


@dataclass(frozen=True)
class Request:
    """A request to the store: the n-th of its method."""

    method: str
    key: str
    number: int

    @property
    def is_write(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


Weather = Callable[[Request], str | None]
"""Which of `FAULTS` befalls a request."""
FAULTS = ("refuse", "reset before", "reset after", "cut body", "slow body", "flip a bit")


@dataclass
class S3Proxy:
    """A proxy that serves. Use `serve_s3_proxy`."""

    upstream: str
    weather: Weather = lambda _: None
    on_commit: Callable[[Request], None] = lambda _: None
    """Told of each write that the store has taken, before the client is; in the proxy's thread."""
    endpoint: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by method, and refusals of the store's address as `unreachable`."""
    played: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        """What a recipe says to reach the store through this proxy."""
        return Storage(endpoint=self.endpoint, region="us-east-1", addressing="path")

    async def handle(self, incoming: web.Request) -> web.StreamResponse:
        request = Request(incoming.method, incoming.path, self.counts[incoming.method])
        self.counts[incoming.method] += 1
        fault = self.weather(request)
        if fault:
            self.played.append(f"{request}: {fault}")
        if fault == "refuse":
            status = random.Random(request.number).choice(sorted(REFUSALS))
            text = f"<Error><Code>{REFUSALS[status]}</Code><Message>said by the proxy</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        if fault == "reset before":
            return hang_up(incoming)
        try:
            answer, body = await self._pass_on(incoming)
        except aiohttp.ClientError:
            self.counts["unreachable"] += 1
            return hang_up(incoming)
        if request.is_write and answer.status < 300:
            self.on_commit(request)
        if fault == "reset after":
            return hang_up(incoming)
        return await self._answer(incoming, answer, body, fault)

    async def _pass_on(self, incoming: web.Request) -> tuple[aiohttp.ClientResponse, bytes]:
        dropped = ("connection", "content-length", "transfer-encoding", "expect")
        headers = {name: value for name, value in incoming.headers.items() if name.lower() not in dropped}
        data = await incoming.read()
        url = URL(self.upstream + incoming.raw_path, encoded=True)  # the path as it was signed
        skipped = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
        async with (
            aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=skipped) as session,
            session.request(incoming.method, url, headers=headers, data=data) as answer,
        ):
            return answer, await answer.read()

    async def _answer(
        self, incoming: web.Request, answer: aiohttp.ClientResponse, body: bytes, fault: str | None
    ) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "connection"}
        response = web.StreamResponse(status=answer.status, headers=headers)
        if incoming.method == "HEAD" or not body:
            await response.prepare(incoming)
            return response
        if fault == "flip a bit":
            body = bytes([body[0] ^ 1]) + body[1:]
        response.content_length = len(body)
        await response.prepare(incoming)
        half = len(body) // 2
        await response.write(body[:half])
        if fault == "cut body":
            return hang_up(incoming)
        if fault == "slow body":
            await asyncio.sleep(0.5)
        await response.write(body[half:])
        return response


def hang_up(incoming: web.Request) -> web.Response:
    """Break the connection; what is returned reaches nobody."""
    if incoming.transport is not None:
        incoming.transport.abort()
    return web.Response()


def draw_weather(seed: int) -> Weather:
    """Draw a storm that is over after so many calls of each method; a call's fault depends on seed and number."""

    def weather(request: Request) -> str | None:
        chance = random.Random(f"{seed}/{request.method}/{request.number}")
        if request.number >= STORM_CALLS or chance.random() >= SHARE:
            return None
        return chance.choice(FAULTS if request.method == "GET" else FAULTS[:3])

    return weather


@contextmanager
def serve_s3_proxy(upstream: str) -> Iterator[S3Proxy]:
    """Serve a proxy on a free port of 127.0.0.1, until the block ends."""
    proxy = S3Proxy(upstream)
    loop, is_up, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", proxy.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        is_up.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert is_up.wait(30)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
