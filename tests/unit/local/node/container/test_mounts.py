"""What a container sees of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runyard_local.node.container.mounts import HostView, find_links, plan_mounts
from runyard_local.node.container.shim import Mount

TERMINATION_LOG = Mount("bind", "/dev/termination-log", "/p/log")


def plan(view: HostView, *volumes: Mount) -> Sequence[Mount]:
    return plan_mounts(view, Path("/p/etc"), TERMINATION_LOG, volumes)


def host(*folders: str, state: str = "/home/me/.runyard") -> HostView:
    return HostView(tuple(Mount("bind", folder, folder, read_only=True) for folder in folders), state, "/usr/bin")


def test_a_volume_on_tmp_does_not_hide_a_clone_below_it() -> None:
    targets = [mount.target for mount in plan(host("/tmp/x/clone", "/usr"), Mount("bind", "/tmp", "/p/volumes/tmp"))]
    assert targets.index("/tmp") < targets.index("/tmp/x/clone")


def test_a_volume_replaces_what_would_be_there() -> None:
    shm = Mount("tmpfs", "/dev/shm", size_bytes=1 << 30)
    assert [mount for mount in plan(host("/usr"), shm) if mount.target == "/dev/shm"] == [shm]


def test_the_instances_own_directory_is_hidden_where_it_would_be_seen() -> None:
    hidden = Mount("tmpfs", "/src/clone/.state", read_only=True)
    seen = plan(host("/src/clone", state="/src/clone/.state"))
    assert seen.index(hidden) > seen.index(Mount("bind", "/src/clone", "/src/clone", read_only=True))
    assert not any(mount.target == "/home/me/.runyard" for mount in plan(host("/src/clone")))


def test_everything_of_the_machine_is_read_only_but_devices() -> None:
    writable = {mount.target for mount in plan(host("/usr", "/opt")) if mount.kind == "bind" and not mount.read_only}
    assert {target for target in writable if not target.startswith("/dev/")} == set()


def test_every_link_on_the_way_to_the_interpreter_is_found(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to("../real")
    (tmp_path / "python").symlink_to(tmp_path / "bin" / "python3")
    assert find_links(str(tmp_path / "python")) == [str(tmp_path / "python"), str(tmp_path / "bin" / "python3")]
    assert find_links(str(tmp_path / "real")) == []
