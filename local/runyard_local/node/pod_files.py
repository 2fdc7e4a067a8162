"""The files of a pod: its /etc, its volumes, and the service account tokens in them.

Pod, ConfigMaps, Secrets ─(container/volumes: pure)─> the files of each volume ─> written into the pod's folder
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from runyard_local.client import ApiError
from runyard_local.node.container import volumes
from runyard_local.node.container.environment import ConfigError, Facts
from runyard_local.node.container.volumes import File, Token, write_file
from runyard_local.node.container_worker import find_user
from runyard_local.node.context import NodeContext
from runyard_local.node.etc_hosts import find_hostname, render_hosts

_TOKEN_LIFE_FRACTION = 0.8
"""When a token is replaced, as a kubelet does."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumeToken:
    """A file of a volume that holds a service account token."""

    volume: str
    file: File
    token: Token


class PodFiles:
    """The files of one pod that has an address."""

    def __init__(self, node: NodeContext, pod: dict[str, Any], address: str) -> None:
        self._node = node
        self._pod = pod
        self._dir = node.folder.pod(pod["metadata"]["uid"])
        self._address = address

    def make_etc(self) -> None:
        """Write the files of /etc that belong to the pod and not to the machine."""
        self._dir.etc.mkdir(parents=True, exist_ok=True)
        uid, gid = _find_user_or_root(self._pod)
        user = "" if uid == 0 else f"runyard:x:{uid}:{gid}::/tmp:/bin/sh\n"
        group = "" if gid == 0 else f"runyard:x:{gid}:\n"
        self._write_etc("passwd", f"root:x:0:0:root:/root:/bin/sh\n{user}")
        self._write_etc("group", f"root:x:0:\n{group}")
        self._write_etc("hostname", find_hostname(self._pod) + "\n")
        self._write_etc("resolv.conf", _render_resolv_conf())
        self.write_hosts()

    def write_hosts(self) -> None:
        """Write /etc/hosts with the pods that can be found by name now."""
        self._write_etc("hosts", render_hosts(self._pod, self._address, self._node.hosts_entries.values()))

    def _write_etc(self, name: str, text: str) -> None:
        write_file(self._dir.etc, File(name, b"", 0o644), text.encode())

    async def make_volumes(self, pod: dict[str, Any]) -> list[VolumeToken]:
        """Write the files of all volumes, with the labels that `pod` has now; return the tokens among them.

        Raises:
            ConfigError: a ConfigMap, Secret or key is missing, or a local node does not know such a volume.
            ApiError: the API server does not give one of them.
        """
        tokens = []
        wanted = pod["spec"].get("volumes", [])
        references = [reference for volume in wanted for reference in volumes.find_references(volume)]
        objects = await self._node.read_objects(pod["metadata"]["namespace"], references)
        facts = Facts(pod, self._address, self._node.address, objects)
        for volume in wanted:
            volumes.check_volume(volume)
            self._dir.volume(volume["name"]).mkdir(parents=True, exist_ok=True)
            for file in volumes.plan_files(volume, facts):
                if isinstance(file.content, Token):
                    tokens.append(VolumeToken(volume["name"], file, file.content))
                    await self._write_token(tokens[-1])
                else:
                    write_file(self._dir.volume(volume["name"]), file, file.content)
        return tokens

    async def refresh_tokens(self, tokens: list[VolumeToken]) -> None:
        """Replace the tokens before they expire, for ever."""
        while True:
            shortest_s = min(each.token.expiration_s for each in tokens)
            await asyncio.sleep(_TOKEN_LIFE_FRACTION * shortest_s)
            for each in tokens:
                try:
                    await self._write_token(each)
                except ApiError as error:
                    log.warning("cannot refresh a token of %s: %s", self._pod["metadata"]["name"], error)

    async def _write_token(self, wanted: VolumeToken) -> None:
        metadata = self._pod["metadata"]
        account = self._pod["spec"].get("serviceAccountName") or "default"
        path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token"
        spec = {
            "audiences": [wanted.token.audience] if wanted.token.audience else [],
            "expirationSeconds": wanted.token.expiration_s,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._node.client.create(path, request)
        write_file(self._dir.volume(wanted.volume), wanted.file, answer["status"]["token"].encode())


def _find_user_or_root(pod: dict[str, Any]) -> tuple[int, int]:
    try:
        return find_user(pod["spec"], pod["spec"]["containers"][0])
    except ConfigError:
        return 0, 0


def _render_resolv_conf() -> str:
    """Name the machine's servers with short timeouts: a pod's name that does not exist yet must not take seconds."""
    try:
        with open("/etc/resolv.conf") as file:
            lines = [line for line in file if line.startswith(("nameserver", "search"))]
    except OSError:
        lines = []
    return "".join(lines) + "options timeout:1 attempts:1\n"
