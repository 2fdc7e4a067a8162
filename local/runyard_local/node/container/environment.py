"""Build a container's variables and command from ConfigMaps, Secrets and the pod itself. Pure: the objects are given.

Messages are worded as a kubelet's: people search for those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]

SECRET = "Secret"  # noqa: S105 - a kind of object, not a secret
CONFIG_MAP = "ConfigMap"

Reference = tuple[str, str]
"""Kind and name of a ConfigMap or Secret in the pod's namespace."""

_VARIABLE = re.compile(r"\$\$|\$\((?P<name>[^()]+)\)")
_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_SUBSCRIPT = re.compile(r"metadata\.(?P<map>labels|annotations)\['(?P<key>.+)'\]")


class ConfigError(Exception):
    """The container cannot be made as its spec asks."""


@dataclass(frozen=True)
class Facts:
    """A pod with its addresses, and the objects that it refers to."""

    pod: Json
    pod_ip: str
    host_ip: str
    objects: Mapping[Reference, Mapping[str, bytes] | None] = field(default_factory=dict)
    """Data of each ConfigMap and Secret referred to; None for one that does not exist."""

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])

    def read(self, kind: str, name: str, *, optional: bool) -> Mapping[str, bytes]:
        """Return the data of an object; empty where an optional one is missing. Raises ConfigError."""
        data = self.objects.get((kind, name))
        if data is None and not optional:
            raise ConfigError(f'{kind.lower()} "{name}" not found')
        return data or {}

    def read_key(self, kind: str, name: str, key: str, *, optional: bool) -> bytes | None:
        """Return one value; None where an optional one is missing. Raises ConfigError."""
        data = self.read(kind, name, optional=optional)
        if key not in data and not optional:
            raise ConfigError(f"couldn't find key {key} in {kind} {self.namespace}/{name}")
        return data.get(key)

    def read_field(self, path: str) -> str:
        """Return a field of the pod for the downward API. Raises ConfigError."""
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        plain = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "status.podIP": self.pod_ip,
            "status.podIPs": self.pod_ip,
            "status.hostIP": self.host_ip,
            "status.hostIPs": self.host_ip,
        }
        if path in plain:
            return str(plain[path])
        if found := _SUBSCRIPT.fullmatch(path):
            return str(metadata.get(found["map"], {}).get(found["key"], ""))
        if path in ("metadata.labels", "metadata.annotations"):
            items: Mapping[str, str] = metadata.get(path.partition(".")[2], {})
            return "\n".join(f'{key}="{value}"' for key, value in sorted(items.items()))
        raise ConfigError(f'unsupported fieldPath "{path}"')


def check_container(container: Json) -> None:
    """Refuse fields that a local node cannot honour. Raises ConfigError."""
    if "lifecycle" in container:
        raise ConfigError("lifecycle: a local node runs no hooks")
    if "restartPolicy" in container:
        raise ConfigError("restartPolicy of a container: a local node knows that of the pod only")
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if kind in container and not {"httpGet", "tcpSocket"} & container[kind].keys():
            raise ConfigError(f"{kind}: a local node knows httpGet and tcpSocket")


def find_references(container: Json) -> Iterator[Reference]:
    """Find every ConfigMap and Secret that the container's variables come from."""
    for source in container.get("envFrom", []):
        for member, kind in (("secretRef", SECRET), ("configMapRef", CONFIG_MAP)):
            if member in source:
                yield kind, source[member]["name"]
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        for member, kind in (("secretKeyRef", SECRET), ("configMapKeyRef", CONFIG_MAP)):
            if member in source:
                yield kind, source[member]["name"]


def build_environment(container: Json, facts: Facts, given: Mapping[str, str]) -> dict[str, str]:
    """Build the variables: those given by the node, then envFrom, then env; later ones win. Raises ConfigError."""
    variables = dict(given)
    for source in container.get("envFrom", []):
        variables |= _read_env_from(source, facts)
    for variable in container.get("env", []):
        value = _read_variable(variable, facts, variables)
        if value is not None:
            variables[variable["name"]] = value
    return variables


def _read_env_from(source: Json, facts: Facts) -> dict[str, str]:
    member, kind = ("secretRef", SECRET) if "secretRef" in source else ("configMapRef", CONFIG_MAP)
    reference = source[member]
    data = facts.read(kind, reference["name"], optional=reference.get("optional", False))
    prefix = source.get("prefix", "")
    return {prefix + key: _decode(value) for key, value in data.items() if _NAME.fullmatch(prefix + key)}


def _read_variable(variable: Json, facts: Facts, earlier: Mapping[str, str]) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value", ""), earlier)
    if "fieldRef" in source:
        return facts.read_field(source["fieldRef"]["fieldPath"])
    for member, kind in (("secretKeyRef", SECRET), ("configMapKeyRef", CONFIG_MAP)):
        if member in source:
            wanted = source[member]
            value = facts.read_key(kind, wanted["name"], wanted["key"], optional=wanted.get("optional", False))
            return None if value is None else _decode(value)
    raise ConfigError(f"env {variable['name']}: a local node does not know {', '.join(source)}")


def _decode(value: bytes) -> str:
    """Decode so that exec encodes it back to the same bytes."""
    return value.decode(errors="surrogateescape")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value; $$ is a dollar sign; an unknown name stays as it is."""

    def replace(found: re.Match[str]) -> str:
        return "$" if found["name"] is None else variables.get(found["name"], found[0])

    return _VARIABLE.sub(replace, text)


def build_command(container: Json, variables: Mapping[str, str]) -> Sequence[str]:
    """Build the argument list. Raises ConfigError where only the image knows it."""
    words = [*container.get("command", []), *container.get("args", [])]
    if not container.get("command"):
        raise ConfigError(
            f"container {container['name']} has no command: a local node pulls no images, so it cannot know what the "
            "image would run; set command in the pod's spec"
        )
    return [expand(word, variables) for word in words]
