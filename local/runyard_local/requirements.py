"""Check that this machine can run pods as processes: the node agent needs unprivileged user namespaces."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from runyard_trainer.contract.exits import UserError

FIRST_KERNEL = (5, 12)
"""The first Linux with mount_setattr."""

_AS_A_POD = ("-Urmupf", "--mount-proc")
"""unshare's flags for the namespaces of a pod. Inside a container, often all are allowed but mounting /proc."""

_SWITCHES = {
    "kernel.apparmor_restrict_unprivileged_userns": "0",
    "kernel.unprivileged_userns_clone": "1",
}
"""Kernel settings that switch user namespaces off, and the value that allows them."""


def check_requirements() -> None:
    """Refuse a machine that cannot run pods. Raises UserError with the cause and the remedy."""
    if sys.platform != "linux":
        raise UserError("`runyard local` runs on Linux only: pods are processes in Linux namespaces")
    unshare = shutil.which("unshare")
    if unshare is None:
        raise UserError("`unshare` is not on PATH: install util-linux (`apt-get install util-linux`)")
    version = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])
    if version < FIRST_KERNEL:
        wanted = ".".join(map(str, FIRST_KERNEL))
        raise UserError(f"Linux {platform.release()} cannot make a pod's mounts read-only: {wanted} or newer is needed")
    attempt = subprocess.run([unshare, *_AS_A_POD, "true"], capture_output=True, text=True, check=False)
    if attempt.returncode != 0:
        raise UserError(
            f"this machine does not allow unprivileged user namespaces, in which pods run "
            f"(`unshare {' '.join(_AS_A_POD)} true`: {attempt.stderr.strip()}). {_explain_how_to_allow()}"
        )


def _explain_how_to_allow() -> str:
    for name, wanted in _SWITCHES.items():
        if _read_sysctl(name) not in (None, wanted):
            return (
                f"Allow them with `sudo sysctl {name}={wanted}`; to keep that over a reboot, put the line "
                f"`{name} = {wanted}` into /etc/sysctl.d/60-runyard.conf"
            )
    if _read_sysctl("user.max_user_namespaces") == "0":
        return "Allow them with `sudo sysctl user.max_user_namespaces=15000`"
    return (
        "Inside a container, its engine forbids them: start it with `--security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined`, or run on the host"
    )


def _read_sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return None
