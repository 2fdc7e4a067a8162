"""Ask a server that speaks OpenAI's protocol: POST /chat/completions.

The endpoint that the recipe names is all that is contacted: redirects are not followed, and proxies of the environment
not used. What may pass (no connection, 429, 5xx) is tried again, after as long as Retry-After asks.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
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

from runyard_trainer.contract import Judge
from runyard_trainer.outcome import UserError

REQUEST_TIMEOUT_S = 60.0
MAX_REPLY_TOKENS = 512

_ATTEMPTS = 5
_PATIENCE_S = 120.0
_MAX_WAIT_S = 60.0
_CHECK_PATIENCE_S = 180.0
_MAX_SHOWN = 200
_backoff = wait_random_exponential(multiplier=1, max=20)


class JudgeError(Exception):
    """The judge could not be asked; the message says what its server did, and never holds the key."""

    def __init__(self, message: str, *, may_pass: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class JudgeClient:
    """An open connection to the judge's server."""

    session: aiohttp.ClientSession
    judge: Judge
    api_key: str | None

    async def ask(self, messages: list[dict[str, Any]]) -> str | None:
        """The judge's reply; None where the server's is no completion.

        Raises:
            JudgeError: the server cannot be asked, for good or after some attempts.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, JudgeError) and error.may_pass),
            wait=_choose_wait_s,
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_PATIENCE_S),
            reraise=True,
        )
        reply: str | None = await retrying(self._post, messages)
        return reply

    async def _post(self, messages: list[dict[str, Any]]) -> str | None:
        url = f"{self.judge.endpoint.rstrip('/')}/chat/completions"
        body = {"model": self.judge.model, "messages": messages, "temperature": 0, "max_tokens": MAX_REPLY_TOKENS}
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            async with self.session.post(url, json=body, headers=headers, allow_redirects=False) as response:
                text = await response.text(errors="replace")
                if response.status != 200:
                    raise self._describe_refusal(url, response, text)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or f"no answer within {REQUEST_TIMEOUT_S:.0f} s"
            raise JudgeError(f"{url} cannot be reached: {why}", may_pass=True) from error
        return read_completion(text)

    def _describe_refusal(self, url: str, response: aiohttp.ClientResponse, text: str) -> JudgeError:
        shown = text.replace(self.api_key, "...") if self.api_key else text
        shown = " ".join(shown.split())[:_MAX_SHOWN]
        return JudgeError(
            f"{url} answered {response.status} {response.reason}" + (f": {shown}" if shown else ""),
            may_pass=response.status in (408, 429) or response.status >= 500,
            retry_after_s=read_retry_after(response.headers.get("Retry-After"), time.time()),
        )


@asynccontextmanager
async def open_client(judge: Judge, api_key: str | None) -> AsyncIterator[JudgeClient]:
    """To ask with."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield JudgeClient(session, judge, api_key)


def read_completion(text: str) -> str | None:
    """The text of the first choice, which may be empty; None where there is no such thing."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return content if isinstance(content, str) else ""


def read_retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, from seconds or a date; None where there is none."""
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
    if isinstance(error, JudgeError) and error.retry_after_s is not None:
        return min(error.retry_after_s, _MAX_WAIT_S)
    return float(_backoff(state))


def check_judge(judge: Judge, api_key: str | None) -> None:
    """Ask the judge one thing, as it will be asked later.

    Raises:
        UserError: it cannot be asked.
    """
    if judge.secret_name is not None and api_key is None:
        raise UserError(
            f"evaluation.judge.secretName: the environment has no JUDGE_API_KEY. In a cluster it comes from Secret "
            f"{judge.secret_name}; elsewhere set it, or remove secretName"
        )

    async def ask() -> str | None:
        async with asyncio.timeout(_CHECK_PATIENCE_S), open_client(judge, api_key) as client:
            return await client.ask([{"role": "user", "content": "Reply with the word ready."}])

    try:
        reply = asyncio.run(ask())
    except (JudgeError, TimeoutError) as error:
        why = str(error) or f"no answer within {_CHECK_PATIENCE_S:.0f} s"
        raise UserError(
            f"evaluation.judge: {why}. Mend endpoint, model or secretName, start the server, or remove evaluation.judge"
        ) from error
    if reply is None:
        raise UserError(
            f"evaluation.judge.endpoint: what {judge.endpoint}/chat/completions answers is no chat completion: "
            "name the base URL of a server that speaks OpenAI's protocol, up to and with /v1"
        )
