"""A proxy before the API server that does to its client what networks and API servers do on a bad day.

    operator ──http──> Proxy ──https──> API server          one proxy for each operator process
                         │
                      weather: Call -> Fault | None

It keeps a record of the writes that it was asked for and of what the API server said to them, and can be told to do
something at the moment when a write is committed and its sender does not know that yet.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import aiohttp
import yaml
from aiohttp import web

from tests.chaos.api import Api


@dataclass(frozen=True)
class Call:
    """A request, before anything is done about it."""

    method: str
    path: str
    is_watch: bool

    @property
    def is_write(self) -> bool:
        return self.method != "GET"

    @property
    def is_lease(self) -> bool:
        return "/leases" in self.path

    @property
    def kind(self) -> str:
        """`POST jobs`, `GET pods`, `WATCH pods`, `PATCH trainingruns/status`: what faults are counted by."""
        parts = self.path.strip("/").split("/")
        place = parts.index("namespaces") + 2 if "namespaces" in parts else len(parts) - 1
        resource = "/".join([*parts[place : place + 1], *parts[place + 2 :]])
        return f"{'WATCH' if self.is_watch else self.method} {resource}"


@dataclass(frozen=True)
class Write:
    """A write, and what the API server has answered."""

    call: Call
    status: int


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def build(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class Fault(Protocol):
    """What is done to a call in place of passing it on."""

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse: ...


Weather = Callable[[Call], Fault | None]


def fair_weather(_: Call) -> None:
    return None


@dataclass
class Proxy:
    """A proxy that serves. Use `serve_proxy`."""

    api: Api
    name: str
    """Its client's, by which the audit log knows it."""
    weather: Weather = fair_weather
    on_commit: Callable[[Write], None] = lambda _: None
    """Told of each write that the API server has taken, before the client is."""
    is_cut_off: bool = False
    writes: list[Write] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    """How many there were of each kind."""
    url: str = ""
    _open: set[asyncio.BaseTransport] = field(default_factory=set)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query.get("watch") == "true")
        if self.is_cut_off or request.transport is None:
            return hang_up(request)
        self._open.add(request.transport)
        self.calls[call.kind] += 1
        fault = self.weather(call) or (Stream() if call.is_watch else Pass())
        try:
            return await fault.play(self, call, request)
        except ConnectionError:  # the client has gone, or cannot be told what the API server says
            return hang_up(request)

    async def pass_on(self, call: Call, request: web.Request) -> Answer:
        """Let the API server answer; it does so even if the client has gone."""
        body = await request.read()
        async with self.api.session.request(
            call.method, self.api.server + request.path_qs, headers=self.forward(request), data=body or None
        ) as upstream:
            kept = {"Content-Type": upstream.headers.get("Content-Type", "application/json")}
            answer = Answer(upstream.status, kept, await upstream.read())
        if call.is_write:
            write = Write(call, answer.status)
            self.writes.append(write)
            if answer.status < 300:
                self.on_commit(write)
        return answer

    def forward(self, request: web.Request) -> dict[str, str]:
        """Return the headers without those that belong to the connection."""
        dropped = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "user-agent")
        kept = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        return kept | {"User-Agent": self.name}

    def cut_off(self) -> None:
        """Let nothing through from now on, and break what is open."""
        self.is_cut_off = True
        for transport in self._open:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        self._open.clear()

    def write_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads through this proxy."""
        kubeconfig = {
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": self.api.token}}],
            "current-context": "c",
        }
        path.write_text(yaml.safe_dump(kubeconfig))
        return path


@asynccontextmanager
async def serve_proxy(api: Api, name: str) -> AsyncIterator[Proxy]:
    """Serve a proxy on a free port of 127.0.0.1, until the block ends."""
    proxy = Proxy(api, name)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    proxy.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield proxy
    finally:
        proxy.cut_off()
        await runner.cleanup()


def hang_up(request: web.Request) -> web.Response:
    """Break the connection; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


# --------------------------------------------------------------------------------------------------------------- faults


@dataclass(frozen=True)
class Pass:
    """No fault: the call is passed on."""

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        return (await proxy.pass_on(call, request)).build()


@dataclass(frozen=True)
class Refuse:
    """An answer of refusal; the API server has done nothing."""

    status: int
    reason: str
    retry_after_s: int | None = None

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status, "reason": self.reason}
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return web.json_response(body | {"message": "said by the proxy"}, status=self.status, headers=headers)


@dataclass(frozen=True)
class Reset:
    """A broken connection: before the API server has heard of the call, or after it has done it."""

    after_commit: bool

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        if self.after_commit:
            await proxy.pass_on(call, request)
        return hang_up(request)


@dataclass(frozen=True)
class CutShort:
    """A call that is done, and whose answer breaks off in its middle."""

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        answer = await proxy.pass_on(call, request)
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        await response.write(answer.body[: len(answer.body) // 2])
        return hang_up(request)


@dataclass(frozen=True)
class Nonsense:
    """An answer from something between, in place of the API server."""

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        return web.Response(text="<html>please log in</html>", content_type="text/html")


@dataclass(frozen=True)
class Slow:
    """A call that takes its time."""

    delay_s: float

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.delay_s)
        return (await proxy.pass_on(call, request)).build()


@dataclass(frozen=True)
class Late:
    """A broken connection; what was sent arrives all the same, when `arrival` is over."""

    arrival: Callable[[], Awaitable[object]]

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        await request.read()
        response = hang_up(request)
        await self.arrival()
        await proxy.pass_on(call, request)
        return response


@dataclass(frozen=True)
class Stream:
    """A watch, each event `lag_s` late, that ends after `end_after_s` by a broken connection or with an ERROR event."""

    lag_s: float = 0.0
    end_after_s: float | None = None
    error_code: int | None = None

    async def play(self, proxy: Proxy, call: Call, request: web.Request) -> web.StreamResponse:
        url, headers = proxy.api.server + request.path_qs, proxy.forward(request)
        timeout = aiohttp.ClientTimeout(total=None)
        async with proxy.api.session.get(url, headers=headers, timeout=timeout, read_bufsize=2**20) as upstream:
            response = web.StreamResponse(status=upstream.status, headers={"Content-Type": "application/json"})
            await response.prepare(request)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.end_after_s):
                    async for line in upstream.content:
                        await asyncio.sleep(self.lag_s)
                        await response.write(line)
        if self.end_after_s is None:
            return response
        if self.error_code is None:
            return hang_up(request)
        status = {"kind": "Status", "status": "Failure", "code": self.error_code, "reason": "Expired", "message": "old"}
        await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
        return response
