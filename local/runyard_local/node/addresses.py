"""Give each node and each pod an address of its own in 127.0.0.0/8: all of that is loopback.

    127.<octet>.<node's index>.1        the node
    127.<octet>.<node's index>.2..254   its pods

An instance has an octet of its own. Each of its agents claims it by binding an abstract Unix socket named after the
octet and the instance. Such a socket lives as long as its process, and every process can read its name in
/proc/net/unix.
"""

from __future__ import annotations

import hashlib
import re
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from runyard_trainer.contract.exits import UserError

MAX_NODES = 200

_FIRST_OCTET, _LAST_OCTET = 2, 250
_FIRST_HOST, _LAST_HOST = 2, 254
_PREFIX = "runyard-pods"
_CLAIM = re.compile(rf"@{_PREFIX}/(?P<octet>\d+)/(?P<instance>[0-9a-f]+)/\d+$", re.MULTILINE)
_GUARD_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Claim:
    """An instance's claim on an octet. It holds while `socket` is open."""

    octet: int
    socket: socket.socket


def claim_octet(state: Path, index: int) -> Claim:
    """Claim the octet of the instance in `state` for its node `index`.

    Raises:
        UserError: this node runs already, or no octet is free.
    """
    instance = hashlib.sha256(str(state.resolve()).encode()).hexdigest()[:12]
    with _bind_guard():
        octet = choose_octet(instance, read_claims(Path("/proc/net/unix").read_text()))
        claimed = _try_to_bind(f"{_PREFIX}/{octet}/{instance}/{index}")
    if claimed is None:
        raise UserError(f"another process already is node {index} of the instance in {state}; stop it first")
    return Claim(octet, claimed)


def read_claims(unix_sockets: str) -> set[tuple[int, str]]:
    """Parse the text of /proc/net/unix into pairs of octet and instance."""
    return {(int(found["octet"]), found["instance"]) for found in _CLAIM.finditer(unix_sockets)}


def choose_octet(instance: str, claims: Collection[tuple[int, str]]) -> int:
    """Choose the octet that other nodes of this instance have; else a free one, preferably the same each time.

    Raises:
        UserError: no octet is free.
    """
    count = _LAST_OCTET - _FIRST_OCTET + 1
    preferred = int(instance, 16) % count
    taken = {octet for octet, owner in claims if owner != instance}
    held = [octet for octet, owner in claims if owner == instance]
    candidates = [*held, *(_FIRST_OCTET + (preferred + offset) % count for offset in range(count))]
    free = next((octet for octet in candidates if octet not in taken), None)
    if free is None:
        raise UserError("no 127.x network is free: too many `runyard local` instances on this machine; take some down")
    return free


class AddressPool:
    """The pod addresses of one node, used in turn, so that a released one is not soon used again."""

    def __init__(self, octet: int, index: int) -> None:
        self._prefix = f"127.{octet}.{index}"
        self._free = list(range(_FIRST_HOST, _LAST_HOST + 1))

    @property
    def node_address(self) -> str:
        return f"{self._prefix}.1"

    def allocate(self) -> str:
        """Take a free address. There are 253, and a node takes 110 pods."""
        return f"{self._prefix}.{self._free.pop(0)}"

    def release(self, address: str) -> None:
        """Give an address back to the pool."""
        self._free.append(int(address.rpartition(".")[2]))


def _bind_guard() -> socket.socket:
    """Take the machine-wide lock under which agents look for an octet and claim it."""
    deadline = time.monotonic() + _GUARD_DEADLINE_S
    pause = Event()
    while (guard := _try_to_bind(f"{_PREFIX}/guard")) is None:
        if time.monotonic() > deadline:
            raise UserError("another process holds the guard of the pod networks; see `grep runyard /proc/net/unix`")
        pause.wait(0.02)
    return guard


def _try_to_bind(name: str) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind("\0" + name)
    except OSError:
        claim.close()
        return None
    return claim
