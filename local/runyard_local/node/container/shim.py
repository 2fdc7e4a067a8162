"""The parent process of one container: it makes the namespaces, writes the log and keeps the exit code.

The agent runs it as a script in a bare interpreter (`python -E -s -S shim.py`), with a `ContainerSpec` as JSON on
stdin: so secrets are in no argument list. Standard library only.

    agent ── spawns ──> shim ── forks ──> PID 1 of the container
                         │                 new user, PID, mount, UTS and IPC namespaces; the network is the machine's
                         ├─ stdout: empty if the container started, else the error
                         ├─ log: each line with its time
                         └─ exit: the exit code, for an agent that was away

SIGTERM is passed on to the container; for SIGUSR1 it gets SIGKILL. A container does not outlive its shim; a shim
outlives the agent, as containers outlive a kubelet.

There are two user namespaces: in the first we are root and may mount; the second, inside it, maps that root to the
pod's user, without capabilities. On the machine's disk both are the user that runs the agent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

START_FAILED = 128
"""Exit code of a container that could not be started, as container runtimes report it."""

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = -100, 0x8000, 1
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38


@dataclass(frozen=True)
class Mount:
    """A file, folder or link in a container's root."""

    kind: str
    """`bind`: a file or folder of the machine; `tmpfs`; `symlink`: to `source`; `directory`: writable by anyone."""
    target: str
    source: str = ""
    read_only: bool = False
    size_bytes: int | None = None
    """Size of a tmpfs; None: half of the memory."""


@dataclass(frozen=True)
class ContainerSpec:
    """A container to run. Paths are the machine's, but for `working_dir` and the mounts' targets."""

    hostname: str
    root: str
    """Empty folder, the mount point of the root."""
    mounts: tuple[Mount, ...]
    """In the order of mounting."""
    read_only_root: bool
    argv: tuple[str, ...]
    env: dict[str, str]
    working_dir: str
    uid: int
    gid: int
    log: str
    exit: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> ContainerSpec:
        fields = json.loads(text)
        mounts = tuple(Mount(**mount) for mount in fields.pop("mounts"))
        return cls(mounts=mounts, argv=tuple(fields.pop("argv")), **fields)


def main() -> NoReturn:
    spec = ContainerSpec.from_json(sys.stdin.buffer.read())
    start_result = os.dup(1)
    devnull = os.open("/dev/null", os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(devnull, 1)
    log_reader, log_writer = os.pipe()
    try:
        _enter_user_namespace(_CLONE_NEWPID, uid=0, gid=0)
        container = os.fork()
    except OSError as error:
        os.write(start_result, str(error).encode())
        os._exit(START_FAILED)
    if container == 0:
        _become_container(spec, start_result, log_writer)
    for received, sent in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGUSR1, signal.SIGKILL)):
        signal.signal(received, lambda *_, sent=sent: os.kill(container, sent))
    os.close(start_result)
    os.close(log_writer)
    write_log(log_reader, spec.log)
    _, status = os.waitpid(container, 0)
    code = os.waitstatus_to_exitcode(status)
    code = 128 - code if code < 0 else code
    _write_exit_code(Path(spec.exit), code)
    os._exit(code)


def write_log(reader: int, path: str) -> None:
    """Copy the pipe to the log, with the time before each line, until every writer has closed it."""
    with open(path, "ab", buffering=0) as log:
        at_line_start = True
        while chunk := os.read(reader, 65536):
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
            *lines, rest = chunk.split(b"\n")
            text = b"".join(
                (now if number or at_line_start else b"") + line + b"\n" for number, line in enumerate(lines)
            )
            if rest:
                text += (now if lines or at_line_start else b"") + rest
            at_line_start = not rest
            log.write(text)


def _write_exit_code(path: Path, code: int) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(str(code))
    temporary.replace(path)


# ------------------------------------------------------------------------------------------------- inside the container


def _become_container(spec: ContainerSpec, start_result: int, log_writer: int) -> NoReturn:
    try:
        _call("unshare", _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC)
        socket.sethostname(spec.hostname)
        _build_root(spec)
        _enter_user_namespace(0, spec.uid, spec.gid)
        _drop_capabilities()
        os.makedirs(spec.working_dir, exist_ok=True)
        os.chdir(spec.working_dir)
        os.dup2(log_writer, 1)
        os.dup2(log_writer, 2)
        os.umask(0o022)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # ignored by Python; exec would pass that on
            signal.signal(ignored, signal.SIG_DFL)
        # After the change of user, which clears it.
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _execute(spec)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the command or a variable
        os.write(start_result, str(error).encode())
    finally:
        os._exit(START_FAILED)


def _execute(spec: ContainerSpec) -> None:
    try:
        os.execvpe(spec.argv[0], spec.argv, spec.env)  # noqa: S606 - a container's command needs no shell
    except FileNotFoundError:
        where = "no such file" if "/" in spec.argv[0] else "executable file not found in $PATH"
        raise OSError(f'exec: "{spec.argv[0]}": {where}') from None
    except OSError as error:
        raise OSError(f'exec: "{spec.argv[0]}": {error.strerror}') from None


def _build_root(spec: ContainerSpec) -> None:
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", spec.root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for mount in spec.mounts:
        _apply_mount(spec.root, mount)
    proc = spec.root + "/proc"
    os.makedirs(proc, exist_ok=True)
    _mount("proc", proc, "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.chdir(spec.root)
    _system_call(_SYS_PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    if spec.read_only_root:
        _make_read_only("/", recursive=False)


def _apply_mount(root: str, mount: Mount) -> None:
    target = root + mount.target
    if mount.kind == "symlink":
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not (os.path.islink(target) and os.readlink(target) == mount.source):  # a volume may have it
            os.symlink(mount.source, target)
    elif mount.kind == "bind" and not os.path.isdir(mount.source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    else:
        os.makedirs(target, exist_ok=True)
    if mount.kind == "bind":
        _mount(mount.source, target, None, _MS_BIND | _MS_REC)
    elif mount.kind == "tmpfs":
        size = "" if mount.size_bytes is None else f",size={mount.size_bytes}"
        _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777" + size)
    elif mount.kind == "directory":
        os.chmod(target, 0o1777)  # noqa: S103 - what /tmp has
    if mount.read_only:
        _make_read_only(target, recursive=True)


def _make_read_only(target: str, *, recursive: bool) -> None:
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _system_call(_SYS_MOUNT_SETATTR, _AT_FDCWD, target.encode(), flags, attributes, ctypes.sizeof(attributes))


def _enter_user_namespace(other_namespaces: int, uid: int, gid: int) -> None:
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER | other_namespaces)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outer_uid} 1"),
        ("gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _drop_capabilities() -> None:
    """Drop all for the next exec: neither root nor a set-user-ID file gives what is not in the bounding set."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        _call("prctl", _PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


# --------------------------------------------------------------------------------------------------------- system calls

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: str, filesystem: str | None, flags: int, options: str = "") -> None:
    kind = None if filesystem is None else filesystem.encode()
    done = _libc.mount(source.encode(), target.encode(), kind, ctypes.c_ulong(flags), options.encode())
    _check(done, f"mount {source} on {target}")


def _call(name: str, *arguments: int | bytes) -> None:
    _check(getattr(_libc, name)(*arguments), name)


def _system_call(number: int, *arguments: object) -> None:
    _check(_libc.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
