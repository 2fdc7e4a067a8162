"""The test's own way to the API server, past every proxy: requests and watches as the administrator."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

Manifest = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"


class ApiError(Exception):
    """The API server has refused something."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


@dataclass(frozen=True)
class Api:
    """A connection to the API server. Use `open_api`."""

    session: aiohttp.ClientSession
    server: str
    token: str

    async def request(
        self, method: str, path: str, body: Manifest | None = None, content_type: str = "application/json"
    ) -> Manifest:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.server + path, headers=headers, data=data) as response:
            text = await response.text()
            if not response.ok:
                raise ApiError(response.status, text)
            answer: Manifest = json.loads(text)
            return answer

    async def get(self, path: str) -> Manifest:
        return await self.request("GET", path)

    async def create(self, path: str, body: Manifest) -> Manifest:
        return await self.request("POST", path, body)

    async def patch(self, path: str, body: Manifest) -> Manifest:
        return await self.request("PATCH", path, body, MERGE_PATCH)

    async def try_to(self, action: Any, *statuses: int) -> Manifest | None:
        """Await `action`; return None where the answer is one of these statuses."""
        try:
            found: Manifest = await action
        except ApiError as error:
            if error.status not in statuses:
                raise
            return None
        return found

    async def read_version(self, path: str) -> str:
        """Return the resource version of a collection as it is now."""
        return str((await self.get(f"{path}?limit=1"))["metadata"]["resourceVersion"])

    async def watch(self, path: str, since: str) -> AsyncIterator[tuple[str, Manifest]]:
        """Yield every version of every object of a collection from `since` on, as pairs of event type and object."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.server}{path}?watch=true&timeoutSeconds=3600&resourceVersion={since}"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(url, headers=headers, timeout=timeout, read_bufsize=2**20) as stream:
            async for line in stream.content:
                event = json.loads(line)
                assert event["type"] != "ERROR", event
                yield event["type"], event["object"]


@asynccontextmanager
async def open_api(kubeconfig: Path) -> AsyncIterator[Api]:
    """Connect as the user of `kubeconfig`."""
    text = yaml.safe_load(await asyncio.to_thread(kubeconfig.read_text))
    [cluster], [user] = text["clusters"], text["users"]
    context = ssl.create_default_context(cafile=cluster["cluster"]["certificate-authority"])
    # a connection each: one that the server has closed meanwhile must not break a write that nobody repeats
    connector = aiohttp.TCPConnector(ssl=context, limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session, cluster["cluster"]["server"], user["user"]["token"])
