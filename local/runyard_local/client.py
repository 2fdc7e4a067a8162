"""A thin client for the API server of an instance: raw JSON over aiohttp, credentials from a kubeconfig.

`observe` is a watch that never ends: it lists, follows, and lists again whenever the stream breaks (a restarted server,
410 Gone, a reset), so its readers need no error handling.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from runyard_trainer.contract.exits import UserError
from yarl import URL

Object = dict[str, Any]
"""A Kubernetes object as plain JSON."""

MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

_REQUEST_TIMEOUT_S = 15.0
_WATCH_TIMEOUT_S = 300
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 1.0

log = logging.getLogger(__name__)


class ApiError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Credentials:
    """The API server's address and CA, and our token."""

    server: URL
    ca_path: str
    token: str

    @classmethod
    def read(cls, kubeconfig: Path) -> Credentials:
        """Read the current context of a kubeconfig that names a CA file and a token.

        Raises:
            UserError: the file cannot be read, or has no such context.
        """
        try:
            config = yaml.safe_load(kubeconfig.read_text())
            context = _find(config["contexts"], config["current-context"])["context"]
            cluster = _find(config["clusters"], context["cluster"])["cluster"]
            user = _find(config["users"], context["user"])["user"]
            return cls(URL(cluster["server"]), cluster["certificate-authority"], user["token"])
        except (OSError, yaml.YAMLError, KeyError, TypeError, StopIteration) as error:
            raise UserError(
                f"{kubeconfig} is not a kubeconfig with a current context, a certificate-authority file and a token "
                f"({type(error).__name__}: {error}); use the one that `runyard local up` writes"
            ) from error


def _find(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


@dataclass(frozen=True)
class Listed:
    """All objects of the collection: others no longer exist."""

    objects: list[Object]


@dataclass(frozen=True)
class Changed:
    """An object that was created or changed."""

    object: Object


@dataclass(frozen=True)
class Deleted:
    """The last state of an object that was removed."""

    object: Object


class Client:
    """A connection to the API server. Use `connect`."""

    def __init__(self, credentials: Credentials, session: aiohttp.ClientSession) -> None:
        self.server = credentials.server
        self._session = session

    async def get(self, path: str) -> Object:
        """Read an object, or a list of them. Raises ApiError."""
        return await self._request("GET", path)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object. Raises ApiError."""
        return await self._request("POST", path, body)

    async def patch(self, path: str, body: Object, content_type: str = MERGE_PATCH) -> Object:
        """Patch an object. Raises ApiError."""
        return await self._request("PATCH", path, body, content_type)

    async def delete(self, path: str, options: Object) -> Object:
        """Delete with these DeleteOptions. Raises ApiError."""
        return await self._request("DELETE", path, options)

    async def observe(self, path: str) -> AsyncIterator[Listed | Changed | Deleted]:
        """Follow a collection for ever: first `Listed`, then changes; `Listed` again after every break."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                found = await self.get(path)
                yield Listed(found["items"])
                retry_s = _FIRST_RETRY_S
                async for event in self._watch(path, found["metadata"]["resourceVersion"]):
                    yield event
            except (ApiError, aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                log.info("watch of %s broke, listing again in %.1f s: %s", path, retry_s, error)
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, _LAST_RETRY_S)

    async def _watch(self, path: str, version: str) -> AsyncIterator[Changed | Deleted]:
        """Follow one stream after the other, until one breaks."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_REQUEST_TIMEOUT_S, sock_read=_WATCH_TIMEOUT_S + 30)
        while True:
            params = {
                "watch": "1",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(_WATCH_TIMEOUT_S),
            }
            async with self._session.get(self._url(path), params=params, timeout=timeout) as response:
                if not response.ok:
                    raise ApiError(response.status, await response.text())
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 0), event["object"].get("message", "watch error"))
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] == "DELETED":
                        yield Deleted(event["object"])
                    elif event["type"] != "BOOKMARK":
                        yield Changed(event["object"])

    async def _request(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json"
    ) -> Object:
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        try:
            async with self._session.request(method, self._url(path), data=data, headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, f"{method} {path}: {type(error).__name__}: {error}") from error
        if not response.ok:
            raise ApiError(response.status, f"{method} {path}: {_message(text)}")
        answer: Object = json.loads(text)
        return answer

    def _url(self, path: str) -> URL:
        return self.server.join(URL(path))


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Client]:
    """Connect as the user of a kubeconfig. Raises UserError."""
    credentials = Credentials.read(kubeconfig)
    headers: Mapping[str, str] = {"Authorization": f"Bearer {credentials.token}", "Accept": "application/json"}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=credentials.ca_path), limit=100)
    timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        yield Client(credentials, session)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split a stream into lines of any length: a large object is longer than StreamReader's limit."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:500]
