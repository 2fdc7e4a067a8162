"""What a container's variables and command are."""

from __future__ import annotations

import os
from typing import Any

import pytest
from runyard_local.node.container.environment import (
    CONFIG_MAP,
    SECRET,
    ConfigError,
    Facts,
    build_command,
    build_environment,
    check_container,
    expand,
    find_references,
)

POD = {
    "metadata": {"name": "tj-0-x", "namespace": "team", "uid": "u1", "labels": {"app.dev/a": "b"}, "annotations": {}},
    "spec": {"nodeName": "node-1"},
}
OBJECTS = {
    (SECRET, "keys"): {"id": b"AK", "bad name": b"?"},
    (CONFIG_MAP, "settings"): {"color": b"red"},
    (SECRET, "gone"): None,
    (SECRET, "binary"): {"key": b"\xff"},
}
FACTS = Facts(POD, "127.9.1.2", "127.9.1.1", OBJECTS)


def build(*env: dict[str, Any], env_from: list[dict[str, Any]] | None = None) -> dict[str, str]:
    return build_environment({"name": "c", "env": list(env), "envFrom": env_from or []}, FACTS, {"HOME": "/tmp"})


def secret_key(name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": key, **more}}}


def test_values_may_refer_to_earlier_ones() -> None:
    want = {"HOME": "/tmp", "A": "1", "B": "1-$(C)-$(A)"}
    assert build({"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)-$$(A)"}) == want


def test_a_variable_without_value_is_empty() -> None:
    assert build({"name": "A"})["A"] == ""


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("metadata.name", "tj-0-x"),
        ("metadata.namespace", "team"),
        ("metadata.uid", "u1"),
        ("metadata.labels['app.dev/a']", "b"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "node-1"),
        ("status.podIP", "127.9.1.2"),
        ("status.hostIP", "127.9.1.1"),
    ],
)
def test_fields_of_the_pod_are_known(path: str, want: str) -> None:
    assert build({"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}})["V"] == want


def test_keys_of_secrets_and_config_maps_become_values() -> None:
    config = {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}
    found = build(secret_key("keys", "id"), config)
    assert (found["V"], found["C"]) == ("AK", "red")


def test_env_from_takes_what_can_be_a_name_and_env_wins() -> None:
    sources: list[dict[str, Any]] = [
        {"secretRef": {"name": "keys"}, "prefix": "S_"},
        {"configMapRef": {"name": "settings"}},
    ]
    found = build({"name": "color", "value": "blue"}, env_from=sources)
    assert found == {"HOME": "/tmp", "S_id": "AK", "color": "blue"}


def test_a_missing_secret_is_named() -> None:
    with pytest.raises(ConfigError, match=r'^secret "gone" not found$'):
        build(secret_key("gone", "id"))


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="couldn't find key other in Secret team/keys"):
        build(secret_key("keys", "other"))


@pytest.mark.parametrize(("name", "key"), [("gone", "id"), ("keys", "other")])
def test_what_is_optional_may_be_missing(name: str, key: str) -> None:
    assert build(secret_key(name, key, optional=True)) == {"HOME": "/tmp"}


def test_every_object_that_is_referred_to_is_found() -> None:
    container = {
        "env": [secret_key("keys", "id"), {"name": "A", "value": "1"}],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
    }
    assert set(find_references(container)) == {(SECRET, "keys"), (CONFIG_MAP, "settings")}


def test_the_command_is_expanded() -> None:
    assert build_command({"name": "c", "command": ["$(A)"], "args": ["x$(B)"]}, {"A": "python"}) == ["python", "x$(B)"]


def test_a_container_without_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="container c has no command"):
        build_command({"name": "c", "args": ["x"]}, {})


def test_two_dollars_are_one() -> None:
    assert expand("$$ $A $(A", {"A": "1"}) == "$ $A $(A"


def test_a_value_that_is_no_text_stays_the_same_bytes() -> None:
    assert os.fsencode(build(secret_key("binary", "key"))["V"]) == b"\xff"


@pytest.mark.parametrize(
    "more",
    [
        {"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}},
        {"restartPolicy": "Always"},
        {"livenessProbe": {"exec": {"command": ["true"]}}},
    ],
)
def test_what_a_local_node_cannot_do_is_refused(more: dict[str, Any]) -> None:
    check_container({"name": "c", "livenessProbe": {"httpGet": {"port": 80}}})
    with pytest.raises(ConfigError, match="a local node"):
        check_container({"name": "c", **more})
