"""Plan the files and mounts of a pod's volumes.

emptyDir, configMap, secret, projected and downwardAPI are folders below the pod's folder, mounted into its containers;
an emptyDir in memory is a tmpfs of each container. Service account tokens are planned here and requested elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from runyard_local.files import replace_file
from runyard_local.node.container.environment import CONFIG_MAP, SECRET, ConfigError, Facts, Json, Reference
from runyard_local.node.container.shim import Mount
from runyard_local.node.folders import PodDir

KNOWN = ("emptyDir", "configMap", "secret", "projected", "downwardAPI")

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Token:
    """A service account token to request for a file."""

    audience: str | None
    expiration_s: int


@dataclass(frozen=True)
class File:
    """A file of a volume."""

    path: str
    """Relative to the volume."""
    content: bytes | Token
    mode: int


def find_references(volume: Json) -> Iterator[Reference]:
    """Find every ConfigMap and Secret that the volume is made from."""
    for source in (volume, *volume.get("projected", {}).get("sources", [])):
        if "configMap" in source:
            yield CONFIG_MAP, source["configMap"]["name"]
        if "secret" in source:
            yield SECRET, source["secret"].get("secretName") or source["secret"]["name"]


def check_volume(volume: Json) -> None:
    """Refuse a kind of volume that a local node does not know. Raises ConfigError."""
    kinds = [kind for kind in volume if kind != "name"]
    if unknown := [kind for kind in kinds if kind not in KNOWN]:
        raise ConfigError(
            f"volume {volume['name']}: a local node does not know {unknown[0]}; it knows {', '.join(KNOWN)}"
        )


def plan_files(volume: Json, facts: Facts) -> list[File]:
    """Plan the files of a volume. Raises ConfigError where a ConfigMap, Secret or key is missing."""
    if "projected" in volume:
        mode = volume["projected"].get("defaultMode", 0o644)
        sources = volume["projected"].get("sources", [])
        return [file for source in sources for file in _plan_source(source, facts, mode)]
    return _plan_source(volume, facts, 0o644)


def _plan_source(source: Json, facts: Facts, default_mode: int) -> list[File]:
    if "configMap" in source:
        return _plan_object(CONFIG_MAP, source["configMap"]["name"], source["configMap"], facts, default_mode)
    if "secret" in source:
        name = source["secret"].get("secretName") or source["secret"]["name"]
        return _plan_object(SECRET, name, source["secret"], facts, default_mode)
    if "serviceAccountToken" in source:
        wanted = source["serviceAccountToken"]
        return [
            File(wanted["path"], Token(wanted.get("audience"), wanted.get("expirationSeconds", 3600)), default_mode)
        ]
    if "downwardAPI" in source:
        items = source["downwardAPI"].get("items", [])
        return [
            _plan_downward_item(item, facts, source["downwardAPI"].get("defaultMode", default_mode)) for item in items
        ]
    return []


def _plan_object(kind: str, name: str, source: Json, facts: Facts, default_mode: int) -> list[File]:
    optional = source.get("optional", False)
    mode = source.get("defaultMode", default_mode)
    data = facts.read(kind, name, optional=optional)
    if "items" not in source:
        return [File(key, content, mode) for key, content in data.items()]
    files = []
    for item in source["items"]:
        content = facts.read_key(kind, name, item["key"], optional=optional)
        if content is not None:
            files.append(File(item["path"], content, item.get("mode", mode)))
    return files


def _plan_downward_item(item: Json, facts: Facts, mode: int) -> File:
    if "fieldRef" not in item:
        raise ConfigError(f"downwardAPI item {item['path']}: a local node knows fieldRef only")
    return File(item["path"], facts.read_field(item["fieldRef"]["fieldPath"]).encode(), item.get("mode", mode))


def write_file(folder: Path, file: File, content: bytes) -> None:
    """Write a file in one step: running containers may be reading it. Raises ConfigError for a path outside."""
    if ".." in PurePosixPath(file.path).parts or file.path.startswith("/"):
        raise ConfigError(f"{file.path} is not a path inside a volume")
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Its owner on disk is the pod's user, who must be able to read it; in a cluster, fsGroup lets a group read it.
    replace_file(target, content, file.mode | 0o400)


def plan_volume_mounts(container: Json, volumes: Mapping[str, Json], pod_dir: PodDir) -> list[Mount]:
    """Plan the container's volumeMounts. Raises ConfigError."""
    return [_plan_mount(mount, volumes, pod_dir) for mount in container.get("volumeMounts", [])]


def _plan_mount(mount: Json, volumes: Mapping[str, Json], pod_dir: PodDir) -> Mount:
    volume = volumes[mount["name"]]
    target = str(PurePosixPath("/", mount["mountPath"]))
    empty_dir: Json | None = volume.get("emptyDir")
    if empty_dir is not None and empty_dir.get("medium") == "Memory":
        size = empty_dir.get("sizeLimit")
        return Mount("tmpfs", target, size_bytes=None if size is None else parse_bytes(size))
    if "subPathExpr" in mount:
        raise ConfigError(f"volumeMount {target}: a local node does not know subPathExpr")
    source = pod_dir.volume(volume["name"]) / mount.get("subPath", "")
    read_only = mount.get("readOnly", False) or empty_dir is None
    return Mount("bind", target, str(source), read_only=read_only)


def parse_bytes(quantity: str | int) -> int:
    """Parse a Kubernetes quantity of bytes: 64Mi, 1G, 4096."""
    text = str(quantity)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * factor)
    return int(float(text))


def decode_object(kind: str, found: Mapping[str, Any]) -> dict[str, bytes]:
    """Decode the data of a ConfigMap or Secret."""
    if kind == SECRET:
        return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
