"""Raw JSON to and from the Kubernetes API server: configuration, authentication, retries, errors.

Configuration and credentials come from `kubernetes.aio` (in a cluster the service account, whose token file is read
again as it rotates; elsewhere the kubeconfig). Its generated models are not used: they drop fields they do not know.

Every write can be repeated without harm, because names are deterministic, deletes carry preconditions and patches a
resourceVersion. So transient failures (429, 5xx, a broken connection, a timeout) are retried, a few times and within
seconds; after that the error is raised, and the queue tries again later.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.connector import Connection
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from runyard_trainer.contract.exits import UserError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from runyard.cluster.bounded_json import bound_json, parse_json
from runyard.decide.values import Manifest

REQUEST_TIMEOUT_S = 5.0
"""Of one request. With the lease's renew deadline it fits into the lease's duration: a leader that could not renew has
no write under way when the next one begins."""
ATTEMPTS = 4
RETRY_AFTER_CAP_S = 10.0
TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})

MERGE_PATCH = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class ApiError(Exception):
    """A request that the API server refused, or that did not reach it (status 0)."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 where no answer came."""
        self.reason = reason
        """CamelCase, as Kubernetes names it: NotFound, AlreadyExists, Conflict, Forbidden, Invalid..."""
        self.retry_after_s = retry_after_s

    @property
    def is_transient(self) -> bool:
        """Return whether the same request may succeed in a moment."""
        return self.status == 0 or self.status in TRANSIENT_STATUSES


class _BoundedLines:
    """The content of an answer, whose chunks are whole lines of bounded JSON."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield whole lines."""
        rest = b""
        async for data in self._content.iter_chunked(size):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                yield bound_json(line.decode()).encode() + b"\n"
        if rest:
            yield bound_json(rest.decode()).encode() + b"\n"


class _BoundedResponse(aiohttp.ClientResponse):
    """An answer whose JSON is read to a bounded depth: kopf watches objects that anybody may have written."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Start the answer as aiohttp does, with bounded content."""
        response = await super().start(connection)
        self.content = _BoundedLines(self.content)  # type: ignore[assignment]  # has all that a StreamReader has
        return response

    async def json(self, **_: Any) -> Any:
        """Return the whole content."""
        return parse_json(await self.text())


class Kube:
    """A connection to the API server. Use `connect`."""

    def __init__(self, configuration: Configuration, session: aiohttp.ClientSession) -> None:
        self._configuration = configuration
        self._session = session

    @property
    def server(self) -> str:
        """Return the URL of the API server."""
        return self._configuration.host

    async def open_session(self) -> aiohttp.ClientSession:
        """Open a session for kopf, with the present credentials, as tokens rotate. The caller closes it."""
        header = await self._authorization()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=_ssl_context(self._configuration)),
            headers={"Authorization": header} if header else {},
            response_class=_BoundedResponse,
        )

    async def get(self, path: str, *, accept: str = "application/json", **params: str) -> Manifest:
        """Read one object or a list. Raises ApiError."""
        return await self.request("GET", path, params=params, accept=accept)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Manifest | None = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        attempts: int = ATTEMPTS,
        before_each: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Send a request and return the answer's JSON; `before_each` is called before every try and may raise.

        Raises ApiError: at once where a repetition would fail the same way, else after `attempts` tries.
        """
        retrying = AsyncRetrying(
            stop=stop_after_attempt(attempts),
            wait=_wait_s,
            retry=retry_if_exception(lambda error: isinstance(error, ApiError) and error.is_transient),
            reraise=True,
        )
        headers = {"Content-Type": content_type, "Accept": accept}
        async for attempt in retrying:
            with attempt:
                before_each()
                return await self._send(method, path, headers, params, body)
        raise AssertionError("tenacity either returns or raises")

    async def _send(
        self, method: str, path: str, headers: dict[str, str], params: Mapping[str, str] | None, body: Manifest | None
    ) -> Manifest:
        if authorization := await self._authorization():
            headers = headers | {"Authorization": authorization}
        data = None if body is None else json.dumps(body)
        url = self._configuration.host + path
        try:
            async with self._session.request(method, url, headers=headers, params=params, data=data) as response:
                text = await response.text()
                if not response.ok:
                    raise _error_from(response.status, text, response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {type(error).__name__}: {error}") from error
        try:
            answer: Manifest = parse_json(text)
        except ValueError as error:  # a proxy's page, say
            raise ApiError(
                0, "Unreachable", f"{method} {path}: the answer is not JSON: {text.strip()[:200]}"
            ) from error
        return answer

    async def _authorization(self) -> str | None:
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        return token and "Bearer " + token.split(" ", 1)[-1].strip()


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, ApiError) and error.retry_after_s is not None else 0.0
    return max(min(asked_s, RETRY_AFTER_CAP_S), wait_random_exponential(multiplier=0.2, max=5)(state))


def _error_from(status: int, text: str, retry_after: str | None) -> ApiError:
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        answer = {}
    return ApiError(
        status,
        answer.get("reason") or str(status),
        answer.get("message") or text.strip()[:500] or f"HTTP status {status}",
        float(retry_after) if retry_after and retry_after.isdigit() else None,
    )


@asynccontextmanager
async def connect(tracer: aiohttp.TraceConfig | None = None) -> AsyncIterator[Kube]:
    """Connect with the pod's service account, or, outside a cluster, with the kubeconfig; `tracer` sees each request.

    Raises UserError where there is neither.
    """
    configuration = await load_configuration()
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    connector = aiohttp.TCPConnector(ssl=_ssl_context(configuration), limit=64)
    tracers = [tracer] if tracer else []
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trace_configs=tracers) as session:
        yield Kube(configuration, session)


async def load_configuration() -> Configuration:
    """Read where the API server is and who we are. Raises UserError where neither pod nor kubeconfig says so."""
    configuration = Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # not annotated
        else:
            await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]  # not annotated
                config_file=os.environ.get("KUBECONFIG"), client_configuration=configuration
            )
    except (kubernetes_config.ConfigException, OSError) as error:
        raise UserError(
            f"no Kubernetes cluster to work with: {error}. Run in a pod with a service account, or set KUBECONFIG to a "
            "kubeconfig file"
        ) from error
    return configuration


def _ssl_context(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
