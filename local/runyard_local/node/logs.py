"""Serve a kubelet's /containerLogs, which `kubectl logs` reads: over HTTPS, to the API server only."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runyard_local.node.context import NodeContext
from runyard_local.node.folders import ContainerDir, PodDir

FindPod = Callable[[str, str], PodDir | None]
"""Finds the folder of a pod of this node by namespace and name."""

_POLL_S = 0.1
_BLOCK_BYTES = 65536
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%f000Z"
_TIME_BYTES = len("2026-01-01T00:00:00.000000000Z ")


@dataclass(frozen=True)
class LogOptions:
    """Which lines of a log to send, and whether with their times: PodLogOptions of the API."""

    since: str = ""
    """Leave out lines before this time, written as in the log: so text compares as time does."""
    tail_lines: int | None = None
    limit_bytes: int | None = None
    timestamps: bool = False


def select_lines(content: bytes, wanted: LogOptions) -> bytes:
    """Return the wanted part of a log, each line of which starts with its time."""
    lines = split_lines(content)
    if wanted.since:
        lines = [line for line in lines if line[: _TIME_BYTES - 1].decode() >= wanted.since]
    if wanted.tail_lines is not None:
        lines = lines[-wanted.tail_lines :] if wanted.tail_lines > 0 else []
    if not wanted.timestamps:
        lines = [line[_TIME_BYTES:] for line in lines]
    return b"".join(lines)[: wanted.limit_bytes]


def split_lines(content: bytes) -> list[bytes]:
    """Split at line feeds and keep them; a carriage return, as progress bars write it, ends no line."""
    return BytesIO(content).readlines()


@asynccontextmanager
async def serve_logs(node: NodeContext, certs: Path, find_pod: FindPod) -> AsyncIterator[int]:
    """Serve on the node's address while the body runs; give the port."""
    application = web.Application()
    server = LogServer(find_pod)
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", server.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, node.address, 0, ssl_context=_make_ssl_context(node, certs))
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


class TimeStripper:
    """Takes the times off a log that is followed piece by piece."""

    def __init__(self, *, is_inside_line: bool) -> None:
        self._is_inside_line = is_inside_line
        self._pending = b""

    def strip(self, piece: bytes) -> bytes:
        """Take the next piece, and return the text of the log that is now known, without times."""
        self._pending += piece
        text = b""
        while self._pending:
            if not self._is_inside_line and len(self._pending) < _TIME_BYTES:
                break
            start = 0 if self._is_inside_line else _TIME_BYTES
            line, newline, self._pending = self._pending[start:].partition(b"\n")
            text += line + newline
            self._is_inside_line = not newline
        return text


class LogServer:
    """The handler of requests for a container's log."""

    def __init__(self, find_pod: FindPod) -> None:
        self._find_pod = find_pod

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request with the log, and follow it if asked to."""
        folder = self._find_run(request)
        wanted = read_log_options(request.query, datetime.now(UTC))
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        with folder.log.open("rb") as log:
            content = log.read()
            await response.write(select_lines(content, wanted))
            if request.query.get("follow") == "true":
                is_inside_line = bool(content) and not content.endswith(b"\n")
                stripper = None if wanted.timestamps else TimeStripper(is_inside_line=is_inside_line)
                await _follow(folder, log, stripper, response)
        await response.write_eof()
        return response

    def _find_run(self, request: web.Request) -> ContainerDir:
        namespace, pod, container = (request.match_info[name] for name in ("namespace", "pod", "container"))
        pod_dir = self._find_pod(namespace, pod)
        if pod_dir is None:
            raise web.HTTPNotFound(text=f'pod "{pod}" is not on this node')
        last = pod_dir.last_start(container)
        if last is None:
            raise web.HTTPBadRequest(text=f'container "{container}" in pod "{pod}" is waiting to start')
        if request.query.get("previous") != "true":
            return pod_dir.container(container, last)
        if last == 0:
            text = f'previous terminated container "{container}" in pod "{pod}" not found'
            raise web.HTTPBadRequest(text=text)
        return pod_dir.container(container, last - 1)


async def _follow(
    folder: ContainerDir, log: BinaryIO, stripper: TimeStripper | None, response: web.StreamResponse
) -> None:
    """Send what is added to the log, until the container has ended and all is sent."""
    while True:
        has_ended = folder.has_ended()
        while piece := log.read(_BLOCK_BYTES):
            await response.write(stripper.strip(piece) if stripper else piece)
        if has_ended:
            return
        await asyncio.sleep(_POLL_S)


def read_log_options(query: Mapping[str, str], now: datetime) -> LogOptions:
    """Read the PodLogOptions that the API server passes on as a query."""
    since = None
    if "sinceTime" in query:
        since = datetime.fromisoformat(query["sinceTime"]).astimezone(UTC)
    elif "sinceSeconds" in query:
        since = now - timedelta(seconds=int(query["sinceSeconds"]))
    return LogOptions(
        since=since.strftime(_TIME_FORMAT) if since else "",
        tail_lines=int(query["tailLines"]) if "tailLines" in query else None,
        limit_bytes=int(query["limitBytes"]) if "limitBytes" in query else None,
        timestamps=query.get("timestamps") == "true",
    )


def _make_ssl_context(node: NodeContext, certs: Path) -> ssl.SSLContext:
    """Demand the client certificate that only the API server has."""
    certificate, key = node.folder.path / "serving.crt", node.folder.path / "serving.key"
    _write_serving_certificate(node.address, certificate, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certs / "kubelet-client-ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _write_serving_certificate(address: str, certificate: Path, key: Path) -> None:
    """Write a self-signed certificate, like a kubelet's: the API server takes any."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "runyard-local-node")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key.touch(mode=0o600)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
