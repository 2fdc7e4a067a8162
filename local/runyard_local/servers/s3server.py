"""The S3 server, versitygw: objects are plain files below `s3/`; its keys are random and passed by its environment."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from runyard_local.files import replace_file
from runyard_local.instance import BUCKET, REGION, Instance
from runyard_local.process import Command

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class S3Keys:
    """The keys of the S3 server's only account."""

    access_key_id: str
    secret_access_key: str


def read_or_make_keys(instance: Instance) -> S3Keys:
    path = instance.s3_keys
    if not path.exists():
        keys = {"accessKeyId": secrets.token_hex(10).upper(), "secretAccessKey": secrets.token_urlsafe(32)}
        replace_file(path, f"{json.dumps(keys)}\n".encode())
    record = json.loads(path.read_text())
    return S3Keys(record["accessKeyId"], record["secretAccessKey"])


def build_s3_server(instance: Instance, binary: Path) -> Command:
    keys = read_or_make_keys(instance)
    objects = instance.state / "s3"
    objects.mkdir(parents=True, exist_ok=True)
    argv = [str(binary), "--port", f"127.0.0.1:{instance.ports.s3}", "--region", REGION, "--quiet", "posix"]
    if not _has_extended_attributes(objects):
        metadata = instance.state / "s3-metadata"
        metadata.mkdir(exist_ok=True)
        argv += ["--sidecar", str(metadata)]
    environment = {"ROOT_ACCESS_KEY": keys.access_key_id, "ROOT_SECRET_KEY": keys.secret_access_key}
    return Command("versitygw", (*argv, str(objects)), environment)


def open_client(instance: Instance) -> S3Client:
    """Make a client with the instance's keys."""
    keys = read_or_make_keys(instance)
    return boto3.client(
        "s3",
        endpoint_url=instance.s3_endpoint,
        region_name=REGION,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=Config(
            s3={"addressing_style": "path"},
            proxies={"http": "", "https": ""},
            connect_timeout=2,
            retries={"total_max_attempts": 1},
        ),
    )


def is_s3_ready(instance: Instance) -> bool:
    """Return whether it answers and has the bucket; create that the first time."""
    client = open_client(instance)
    try:
        if BUCKET not in [bucket.get("Name") for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
    except (BotoCoreError, ClientError):
        return False
    return True


def _has_extended_attributes(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.runyard", b"1")
    except OSError:
        return False
    return True
