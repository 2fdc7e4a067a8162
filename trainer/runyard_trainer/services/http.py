"""Ask a server that the recipe names, over HTTP.

No other server is contacted: redirects are not followed, and proxies of the environment are not used. Failures that may
pass (no connection, 429, 5xx) can be tried again, after as long as Retry-After asks. Messages hold no secrets.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

_ATTEMPTS = 5
_PATIENCE_S = 120.0
_MAX_WAIT_S = 60.0
_MAX_SHOWN = 200
_backoff = wait_random_exponential(multiplier=1, max=20)


class ServiceError(Exception):
    """The server gave no answer or refused; the message says which, and holds no secret."""

    def __init__(
        self,
        message: str,
        *,
        may_pass: bool = False,
        retry_after_s: float | None = None,
        status: int | None = None,
        body: str = "",
    ) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Service:
    """An open connection to a server."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str]
    secrets: tuple[str, ...]
    timeout_s: float

    async def ask(self, method: str, url: str, body: object = None, query: Mapping[str, str] | None = None) -> str:
        """Send one request and return the text of the answer.

        Raises:
            ServiceError: no answer came, or one with another status than 200.
        """
        sent: dict[str, Any] = {"json": body, "params": query, "headers": self.headers, "allow_redirects": False}
        try:
            async with self.session.request(method, url, **sent) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise self._describe_refusal(url, response, text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or f"no answer within {self.timeout_s:.0f} s"
            raise ServiceError(f"{url} cannot be reached: {why}", may_pass=True) from error
        return text

    async def ask_patiently(
        self, method: str, url: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> str:
        """Send a request as `ask` does, up to 5 times while the failure may pass."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ServiceError) and error.may_pass),
            wait=_choose_wait_s,
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_PATIENCE_S),
            reraise=True,
        )
        text: str = await retrying(self.ask, method, url, body, query)
        return text

    def _describe_refusal(self, url: str, response: aiohttp.ClientResponse, text: str) -> ServiceError:
        for secret in self.secrets:
            text = text.replace(secret, "...")
        shown = " ".join(text.split())[:_MAX_SHOWN]
        return ServiceError(
            f"{url} answered {response.status} {response.reason}" + (f": {shown}" if shown else ""),
            may_pass=response.status in (408, 429) or response.status >= 500,
            retry_after_s=read_retry_after(response.headers.get("Retry-After"), time.time()),
            status=response.status,
            body=text,
        )


@asynccontextmanager
async def open_service(
    headers: Mapping[str, str], secrets: tuple[str, ...] = (), timeout_s: float = 60.0
) -> AsyncIterator[Service]:
    """Open a session that sends `headers` with each request and keeps `secrets` out of messages."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield Service(session, headers, secrets, timeout_s)


def read_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, by a number or a date; None where it has neither."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def _choose_wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _MAX_WAIT_S)
    return float(_backoff(state))
