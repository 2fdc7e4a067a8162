"""An instance: one state directory with its ports, its number of nodes, and the paths of its files."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from runyard_trainer.contract.exits import UserError

from runyard_local.files import replace_file
from runyard_local.process import ProcessTable

REGION = "us-east-1"
BUCKET = "runyard"

_FIRST_PORT, _LAST_PORT = 10000, 19999
"""Below the ports that the kernel gives outgoing connections, and apart from those that pods use."""


@dataclass(frozen=True)
class Ports:
    """Loopback ports of the servers."""

    apiserver: int
    etcd: int
    etcd_peer: int
    s3: int

    @classmethod
    def choose(cls) -> Ports:
        """Choose four ports that are free now."""
        candidates = random.SystemRandom().sample(range(_FIRST_PORT, _LAST_PORT + 1), 200)
        free = [port for port in candidates if is_port_free(port)]
        return cls(*free[:4])


@dataclass(frozen=True)
class Instance:
    """The content of `instance.json`, and the paths below the state directory. All are absolute."""

    state: Path
    ports: Ports
    nodes: int
    gpus_per_node: int

    @classmethod
    def load(cls, state: Path) -> Instance | None:
        """Read the instance in this directory; None if there is none.

        Raises:
            UserError: instance.json cannot be read.
        """
        path = state / "instance.json"
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        try:
            record = json.loads(text)
            return cls(state, Ports(**record["ports"]), record["nodes"], record["gpusPerNode"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is broken ({error}); start afresh with `runyard local down --delete`") from error

    def save(self) -> None:
        """Write instance.json, in which other programs also find the kubeconfig and S3."""
        record = {
            "ports": asdict(self.ports),
            "nodes": self.nodes,
            "gpusPerNode": self.gpus_per_node,
            "kubeconfig": str(self.kubeconfig),
            "s3": {
                "endpoint": self.s3_endpoint,
                "region": REGION,
                "bucket": BUCKET,
                "addressing": "path",
                "keys": str(self.s3_keys),
            },
        }
        replace_file(self.state / "instance.json", f"{json.dumps(record, indent=2)}\n".encode())

    @property
    def processes(self) -> ProcessTable:
        return ProcessTable(self.state / "run", self.state / "logs")

    @property
    def certs(self) -> Path:
        return self.state / "certs"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def s3_keys(self) -> Path:
        """JSON with accessKeyId and secretAccessKey."""
        return self.state / "s3-keys.json"

    @property
    def kubectl(self) -> Path:
        return self.state / "bin" / "kubectl"

    @property
    def helm(self) -> Path:
        return self.state / "bin" / "helm"

    @property
    def apiserver_url(self) -> str:
        return f"https://127.0.0.1:{self.ports.apiserver}"

    @property
    def s3_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports.s3}"

    @property
    def node_names(self) -> list[str]:
        return [f"node-{index}" for index in range(self.nodes)]


def default_state_dir() -> Path:
    """Return $RUNYARD_LOCAL_DIR or ~/.runyard/local, the directory without --dir."""
    return Path(os.environ.get("RUNYARD_LOCAL_DIR") or "~/.runyard/local").expanduser()


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def lock_state(state: Path) -> Iterator[None]:
    """Lock the directory: two commands must not change one instance at once.

    Raises:
        UserError: the directory cannot be made, or another command holds it.
    """
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_foreign_files(state)
        lock = (state / "lock").open("a")
    except OSError as error:
        raise UserError(f"cannot use the directory {state}: {error.strerror}; choose another with --dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another `runyard local` command is at work on {state}; wait until it is done") from None
        yield


def _refuse_foreign_files(state: Path) -> None:
    """Refuse a directory with other files: `down --delete` would remove them."""
    strangers = [path.name for path in state.iterdir() if path.name not in ("lock", ".instance.json.tmp")]
    if strangers and not (state / "instance.json").exists():
        raise UserError(
            f"{state} holds other files ({', '.join(sorted(strangers)[:3])}); choose a new directory with --dir"
        )
