"""Probe a running container: startup, then readiness and liveness side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

Report = Callable[["Health"], None]


@dataclass(frozen=True)
class Health:
    """The results of a container's probes so far."""

    started: bool = False
    ready: bool = False
    failed_probe: str = ""
    """The kind of probe that has failed too often, so that the container has to be ended; empty while none has."""


async def watch(container: Mapping[str, Any], address: str, report: Report) -> None:
    """Probe a container that has just started, for ever, and report every change."""
    if probe := container.get("startupProbe"):
        report(Health())
        if not await _wait_until_started(probe, container, address):
            report(Health(failed_probe="startup"))
            return
    monitor = _Monitor(Health(started=True, ready="readinessProbe" not in container), report)
    probing = [
        monitor.follow(kind, container[kind], container, address)
        for kind in ("readinessProbe", "livenessProbe")
        if kind in container
    ]
    await asyncio.gather(*probing)


class _Monitor:
    """The combined result of readiness and liveness, reported when it changes."""

    def __init__(self, health: Health, report: Report) -> None:
        self._health = health
        self._report = report
        report(health)

    async def follow(self, kind: str, probe: Mapping[str, Any], container: Mapping[str, Any], address: str) -> None:
        """Probe for ever; decide when successes or failures in a row reach their threshold."""
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        num_in_a_row, last = 0, None
        while True:
            succeeded = await _is_successful(probe, container, address)
            num_in_a_row = num_in_a_row + 1 if succeeded == last else 1
            last = succeeded
            if num_in_a_row == probe.get(
                "successThreshold" if succeeded else "failureThreshold", 1 if succeeded else 3
            ):
                self._decide(kind, succeeded)
            await asyncio.sleep(probe.get("periodSeconds", 10))

    def _decide(self, kind: str, succeeded: bool) -> None:
        health = self._health
        if kind == "readinessProbe":
            health = replace(health, ready=succeeded)
        elif not succeeded:
            health = replace(health, failed_probe="liveness")
        if health != self._health:
            self._health = health
            self._report(health)


async def _wait_until_started(probe: Mapping[str, Any], container: Mapping[str, Any], address: str) -> bool:
    await asyncio.sleep(probe.get("initialDelaySeconds", 0))
    for _ in range(probe.get("failureThreshold", 3)):
        if await _is_successful(probe, container, address):
            return True
        await asyncio.sleep(probe.get("periodSeconds", 10))
    return False


async def _is_successful(probe: Mapping[str, Any], container: Mapping[str, Any], address: str) -> bool:
    """Probe once."""
    try:
        async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
            if "httpGet" in probe:
                return await _get(probe["httpGet"], container, address)
            return await _connect(probe["tcpSocket"], container, address)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False


async def _get(action: Mapping[str, Any], container: Mapping[str, Any], address: str) -> bool:
    port = _find_port(action["port"], container)
    scheme = action.get("scheme", "HTTP").lower()
    url = f"{scheme}://{action.get('host') or address}:{port}{action.get('path', '/')}"
    headers = {header["name"]: header["value"] for header in action.get("httpHeaders", [])}
    # Any certificate will do, as for a kubelet.
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=False) as response:
        return 200 <= response.status < 400


async def _connect(action: Mapping[str, Any], container: Mapping[str, Any], address: str) -> bool:
    _, writer = await asyncio.open_connection(action.get("host") or address, _find_port(action["port"], container))
    writer.close()
    return True


def _find_port(port: int | str, container: Mapping[str, Any]) -> int:
    """Return a port's number; look up a name in the container's ports. 0, where nothing listens, if unknown."""
    if isinstance(port, int):
        return port
    return next((entry["containerPort"] for entry in container.get("ports", []) if entry.get("name") == port), 0)
