"""Which files volumes hold, and where containers see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_local.node.container.environment import CONFIG_MAP, SECRET, ConfigError, Facts
from runyard_local.node.container.shim import Mount
from runyard_local.node.container.volumes import (
    File,
    Token,
    check_volume,
    decode_object,
    find_references,
    parse_bytes,
    plan_files,
    plan_volume_mounts,
    write_file,
)
from runyard_local.node.folders import PodDir

POD = {"metadata": {"name": "p", "namespace": "team", "uid": "u", "labels": {"a": "b"}}, "spec": {}}
FACTS = Facts(POD, "127.9.0.2", "127.9.0.1", {(CONFIG_MAP, "recipe"): {"recipe.json": b"{}", "more": b"x"}})


def test_a_config_map_is_a_file_a_key() -> None:
    volume = {"name": "v", "configMap": {"name": "recipe", "defaultMode": 0o600}}
    assert plan_files(volume, FACTS) == [File("recipe.json", b"{}", 0o600), File("more", b"x", 0o600)]


def test_items_choose_keys_and_paths() -> None:
    items = [{"key": "more", "path": "sub/other", "mode": 0o400}]
    volume = {"name": "v", "configMap": {"name": "recipe", "items": items}}
    assert plan_files(volume, FACTS) == [File("sub/other", b"x", 0o400)]


def test_a_missing_object_is_named_unless_it_is_optional() -> None:
    with pytest.raises(ConfigError, match='secret "keys" not found'):
        plan_files({"name": "v", "secret": {"secretName": "keys"}}, FACTS)
    assert plan_files({"name": "v", "secret": {"secretName": "keys", "optional": True}}, FACTS) == []


def test_a_projected_volume_holds_what_each_of_its_sources_does() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "x"}},
        {"configMap": {"name": "recipe", "items": [{"key": "more", "path": "more"}]}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    volume = {"name": "v", "projected": {"sources": sources, "defaultMode": 0o440}}
    want = [File("token", Token("x", 600), 0o440), File("more", b"x", 0o440), File("labels", b'a="b"', 0o440)]
    assert plan_files(volume, FACTS) == want
    assert list(find_references(volume)) == [(CONFIG_MAP, "recipe")]


def test_an_unknown_kind_of_volume_is_refused() -> None:
    with pytest.raises(ConfigError, match="volume v: a local node does not know hostPath"):
        check_volume({"name": "v", "hostPath": {"path": "/"}})


def plan_mount(mount: dict[str, Any], volume: dict[str, Any]) -> Mount:
    container = {"volumeMounts": [{"name": "v", **mount}]}
    return plan_volume_mounts(container, {"v": {"name": "v", **volume}}, PodDir(Path("/p")))[0]


@pytest.mark.parametrize(
    ("mount", "volume", "want"),
    [
        pytest.param(
            {"mountPath": "/tmp/"},
            {"emptyDir": {}},
            Mount("bind", "/tmp", "/p/volumes/v"),
            id="an emptyDir can be written to",
        ),
        pytest.param(
            {"mountPath": "/a", "readOnly": True},
            {"emptyDir": {}},
            Mount("bind", "/a", "/p/volumes/v", read_only=True),
            id="unless the mount says otherwise",
        ),
        pytest.param(
            {"mountPath": "/dev/shm"},
            {"emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
            Mount("tmpfs", "/dev/shm", size_bytes=64 << 20),
            id="an emptyDir in memory is a tmpfs",
        ),
        pytest.param(
            {"mountPath": "/etc/recipe.json", "subPath": "recipe.json"},
            {"configMap": {"name": "recipe"}},
            Mount("bind", "/etc/recipe.json", "/p/volumes/v/recipe.json", read_only=True),
            id="a ConfigMap cannot be written to, and may be mounted by the file",
        ),
    ],
)
def test_mounts(mount: dict[str, Any], volume: dict[str, Any], want: Mount) -> None:
    assert plan_mount(mount, volume) == want


def test_files_are_written_with_their_mode_and_replaced(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_file(tmp_path, File("sub/name", content, 0o440), content)
    written = tmp_path / "sub" / "name"
    assert (written.read_bytes(), written.stat().st_mode & 0o777) == (b"two", 0o440)
    assert [path.name for path in written.parent.iterdir()] == ["name"]


def test_a_file_outside_of_its_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a path inside a volume"):
        write_file(tmp_path, File("../name", b"", 0o644), b"")


def test_objects_are_decoded() -> None:
    assert decode_object(SECRET, {"data": {"a": "eA=="}}) == {"a": b"x"}
    assert decode_object(CONFIG_MAP, {"data": {"a": "x"}, "binaryData": {"b": "eA=="}}) == {"a": b"x", "b": b"x"}


def test_quantities_are_bytes() -> None:
    assert [parse_bytes(text) for text in ("64Mi", "1.5Gi", "2k", "7", 8)] == [64 << 20, 3 << 29, 2000, 7, 8]
