"""Ask a judge: a server that speaks OpenAI's protocol, POST /chat/completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Judge
from runyard_trainer.services.http import Service, ServiceError, open_service

MAX_REPLY_TOKENS = 512

_CHECK_PATIENCE_S = 180.0


@dataclass(frozen=True)
class JudgeClient:
    """An open connection to the judge's server."""

    service: Service
    judge: Judge

    async def ask(self, messages: list[dict[str, Any]]) -> str | None:
        """Return the judge's reply; None where the server's answer is no completion.

        Raises:
            ServiceError: the server refuses, or has not answered after some attempts.
        """
        url = f"{self.judge.endpoint.rstrip('/')}/chat/completions"
        body = {"model": self.judge.model, "messages": messages, "temperature": 0, "max_tokens": MAX_REPLY_TOKENS}
        return read_completion(await self.service.ask_patiently("POST", url, body))


@asynccontextmanager
async def open_client(judge: Judge, api_key: str | None) -> AsyncIterator[JudgeClient]:
    """Open a session with the judge's server."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with open_service(headers, (api_key,) if api_key else ()) as service:
        yield JudgeClient(service, judge)


def read_completion(text: str) -> str | None:
    """Return the text of the first choice, which may be empty; None where the answer has none."""
    try:
        content = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return None
    return content if isinstance(content, str) else ""


def check_judge(judge: Judge, api_key: str | None) -> None:
    """Ask the judge for one reply, in the way evaluation will ask.

    Raises:
        UserError: no reply came, or no chat completion.
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
    except (ServiceError, TimeoutError) as error:
        why = str(error) or f"no answer within {_CHECK_PATIENCE_S:.0f} s"
        raise UserError(
            f"evaluation.judge: {why}. Mend endpoint, model or secretName, start the server, or remove evaluation.judge"
        ) from error
    if reply is None:
        raise UserError(
            f"evaluation.judge.endpoint: what {judge.endpoint}/chat/completions answers is no chat completion: "
            "name the base URL of a server that speaks OpenAI's protocol, up to and with /v1"
        )
