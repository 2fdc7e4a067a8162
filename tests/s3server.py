"""A real S3 server (versitygw) for tests: loopback, random keys, its own folder."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from runyard_local.programs.binaries import find_or_build
from runyard_trainer.contract.services import Storage

from tests.ports import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str
    access_key_id: str
    secret_access_key: str

    @property
    def storage(self) -> Storage:
        """What a recipe says to reach the server."""
        return Storage(endpoint=self.endpoint, region="us-east-1", addressing="path")

    @property
    def environment(self) -> dict[str, str]:
        """The server's credentials, as boto3 reads them."""
        return {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}

    def client(self) -> S3Client:
        """Return a client with the administrator's rights."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def make_bucket(self) -> str:
        """Make a new bucket and return its name."""
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server whose objects lie in `folder`, until the block ends."""
    server = choose_server()
    process = start_s3(server, folder)
    try:
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def choose_server() -> S3Server:
    """Choose a free port and random keys; nothing runs there yet."""
    return S3Server(f"http://127.0.0.1:{free_port()}", secrets.token_hex(10), secrets.token_hex(20))


def start_s3(server: S3Server, folder: Path) -> subprocess.Popen[bytes]:
    """Start the server over what lies in `folder`, and wait until it accepts connections."""
    objects, metadata = folder / "objects", folder / "metadata"
    objects.mkdir(parents=True, exist_ok=True)
    metadata.mkdir(exist_ok=True)
    address = server.endpoint.removeprefix("http://")
    argv = [str(_binary()), "--port", address, "--quiet", "posix", "--sidecar", str(metadata), str(objects)]
    keys = {"ROOT_ACCESS_KEY": server.access_key_id, "ROOT_SECRET_KEY": server.secret_access_key}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(argv, env={**os.environ, **keys}, stdout=log, stderr=log)
    port = int(address.rpartition(":")[2])
    wait_until(lambda: process.poll() is not None or _accepts(port), deadline_s=30)
    assert process.poll() is None, (folder / "log").read_text()
    return process


@cache
def _binary() -> Path:
    return find_or_build().versitygw


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
