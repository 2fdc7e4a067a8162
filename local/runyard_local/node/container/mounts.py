"""Plan a container's mounts: the part of the machine that it sees, and the pod's volumes.

The root is a tmpfs. Into it go, read-only and at the same paths as on the machine: the system's programs and libraries,
the Python environment, the clone, and the few files of /etc that programs need; then devices and the pod's volumes.
The instance's directory is hidden, as it holds keys. `find_host_view` looks at the machine once; `plan_mounts` is
pure.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import runyard_local
from runyard_local.node.container.shim import Mount

POD_ETC = "/etc/pod"
"""Mount point of the files of /etc that the agent writes for a pod; /etc links to them. It is a folder, because a file
that is mounted by itself could not be replaced in one step."""
POD_ETC_FILES = ("hosts", "hostname", "resolv.conf", "passwd", "group")

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix", "/sys")
_ETC = (
    *("alternatives", "ca-certificates", "crypto-policies", "debian_version", "fonts", "gai.conf", "host.conf"),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "os-release", "pki"),
    *("protocols", "services", "ssl", "timezone"),
)
"""Entries of the machine's /etc that programs may need: an allow-list, as others hold secrets."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEFAULT_SHM_BYTES = 64 << 20


@dataclass(frozen=True)
class HostView:
    """The part of the machine that containers see."""

    mounts: tuple[Mount, ...]
    hidden_dir: str
    """The instance's directory, which they do not see."""
    bin_dir: str
    """Folder with the programs of the Python environment, first on PATH."""


def find_host_view(state: Path) -> HostView:
    """Find the folders of this machine and this interpreter."""
    system = [_mirror(path) for path in (*_SYSTEM, *(f"/etc/{name}" for name in _ETC)) if os.path.lexists(path)]
    folders = _find_python_folders()
    python = [Mount("bind", path, path, read_only=True) for path in folders]
    links = [_mirror(link) for link in find_links(sys.executable) if not _is_in_any(link, (*folders, "/usr"))]
    return HostView((*system, *python, *links), str(state.resolve()), sysconfig.get_path("scripts"))


def find_links(path: str) -> list[str]:
    """List the links that `path` leads through, itself included: an environment's python may use any folder."""
    links = []
    while os.path.islink(path):
        links.append(path)
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return links


def _is_in_any(path: str, folders: Sequence[str]) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)


def _mirror(path: str) -> Mount:
    """Mount a folder or repeat a link: systems with merged /usr have links where others have folders."""
    if os.path.islink(path):
        return Mount("symlink", path, os.readlink(path))
    return Mount("bind", path, path, read_only=True)


def _find_python_folders() -> list[str]:
    """Find the folders of the interpreter, the environment and the clone, without those inside another one."""
    clone = Path(runyard_local.__file__).resolve().parents[2]
    # `python -m` adds the working directory, in which no code lies.
    imported = [path for path in sys.path if os.path.isdir(path) and path != os.getcwd()]
    found = {sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix), *imported}
    if (clone / "pyproject.toml").is_file():
        found.add(str(clone))
    paths = sorted(PurePosixPath(path) for path in found)
    outer = [path for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)]
    return [str(path) for path in outer if not path.is_relative_to("/usr")]


def plan_mounts(host: HostView, pod_etc: Path, termination_log: Mount, volumes: Sequence[Mount]) -> tuple[Mount, ...]:
    """Plan every mount of a container in the order of mounting: a folder before the paths inside it.

    So a volume on /tmp does not hide a clone below /tmp. A volume with the path of another mount replaces that mount.
    """
    ours = [
        *host.mounts,
        Mount("bind", POD_ETC, str(pod_etc), read_only=True),
        *(Mount("symlink", f"/etc/{name}", f"pod/{name}") for name in POD_ETC_FILES),
        *(Mount("bind", f"/dev/{name}", f"/dev/{name}") for name in _DEVICES),
        *(Mount("symlink", f"/dev/{name}", f"/proc/self/fd/{fd}") for name, fd in _STREAMS),
        Mount("symlink", "/dev/fd", "/proc/self/fd"),
        Mount("tmpfs", "/dev/shm", size_bytes=_DEFAULT_SHM_BYTES),  # noqa: S108 - a mount point, not a temporary file
        Mount("directory", "/tmp"),  # noqa: S108 - a mount point, not a temporary file
        Mount("directory", "/var/tmp"),  # noqa: S108 - a mount point, not a temporary file
        termination_log,
    ]
    if any(mount.kind == "bind" and _is_inside(host.hidden_dir, mount.target) for mount in host.mounts):
        ours.append(Mount("tmpfs", host.hidden_dir, read_only=True))
    by_target = {mount.target: mount for mount in (*ours, *volumes)}
    return tuple(sorted(by_target.values(), key=lambda mount: PurePosixPath(mount.target).parts))


_STREAMS = (("stdin", 0), ("stdout", 1), ("stderr", 2))


def _is_inside(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
