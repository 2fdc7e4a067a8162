"""Objects on S3 and servers that speak its protocol. boto3 finds the credentials: in a pod, in the environment."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.base import Blob, NotFound, ObjectInfo, PreconditionFailed, StorageUnavailable

Addressing = Literal["auto", "path", "virtual"]

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRANSFER = TransferConfig(multipart_threshold=32 << 20, multipart_chunksize=32 << 20, max_concurrency=4)
_MAX_ATTEMPTS = 6
_CONFLICT_ATTEMPTS = 5
_BODY_ATTEMPTS = 6

_NAMED_SECRET = "the Secret that storage.secretName names"  # noqa: S105 - it names no secret
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: create it, or mend {field}",
    "InvalidBucketName": "this is no name for a bucket: mend {field}",
    "InvalidAccessKeyId": f"the access key is unknown: check AWS_ACCESS_KEY_ID in {_NAMED_SECRET}",
    "SignatureDoesNotMatch": f"the secret key is wrong: check AWS_SECRET_ACCESS_KEY in {_NAMED_SECRET}",
    "InvalidToken": f"the session token is not valid: renew {_NAMED_SECRET}",
    "ExpiredToken": f"the credentials have expired: renew {_NAMED_SECRET}",
    "AccessDenied": f"these credentials have no right to do that: grant it, or change {_NAMED_SECRET}",
    "AuthorizationHeaderMalformed": "the store expects another region: mend storage.region",
    "PermanentRedirect": "the bucket lies in another region: mend storage.region or storage.endpoint",
    "XAdminUserNotFound": f"the access key is unknown: check AWS_ACCESS_KEY_ID in {_NAMED_SECRET}",  # versitygw's word
    "NotImplemented": "the store does not know this operation: use one that does",
}
"""What a person can do, by the code of an error that another attempt meets again."""
_REFUSING_STATUSES = {401, 403, 405, 501}
"""HTTP statuses that another attempt meets again, whatever the code."""
_CODE_OF_STATUS = {301: "PermanentRedirect", 403: "AccessDenied", 404: "NoSuchKey", 412: "PreconditionFailed"}


class _BrokenBodyError(BotoCoreError):
    """The body of an answer that did not arrive whole."""

    fmt = "{error}"


class S3Store:
    """A bucket as a store."""

    def __init__(self, bucket: str, storage: Storage, field: str) -> None:
        self._bucket = bucket
        self._field = field
        self._endpoint = storage.endpoint or "AWS"
        self._client = open_client(storage.endpoint, storage.region, storage.addressing or "auto")

    @property
    def uri(self) -> str:
        """See `ObjectStore`."""
        return f"s3://{self._bucket}/"

    def get(self, key: str) -> Blob:
        """See `ObjectStore`."""
        with self._explained("read", key):
            return self._read_object(Key=key)

    def get_range(self, key: str, start: int, num_bytes: int, if_match: str | None = None) -> bytes:
        """See `ObjectStore`."""
        condition: Any = {"IfMatch": if_match} if if_match else {}
        with self._explained("read", key):
            span = f"bytes={start}-{start + num_bytes - 1}"
            return self._read_object(Key=key, Range=span, **condition).data

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        try:
            with self._explained("read", key):
                answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except NotFound:
            with self._explained("read", ""):  # HEAD does not say which of the two is missing
                self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
            raise
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with self._explained("list", prefix):
                page = next(pages, None)
            if page is None:
                return
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # what a console calls a folder
                    yield ObjectInfo(entry["Key"], entry["Size"], entry.get("ETag", ""))

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """See `ObjectStore`."""
        condition: Any = (
            {"IfMatch": if_match} if if_match is not None else {"IfNoneMatch": "*"} if if_none_match else {}
        )
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        try:
            with self._explained("write", key):
                for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
                    try:
                        answer = self._client.put_object(
                            Bucket=self._bucket, Key=key, Body=data, ChecksumSHA256=checksum, **condition
                        )
                    except ClientError as error:  # two conditional writes met: the store asks to repeat
                        if _code_of(error) != "ConditionalRequestConflict" or attempt == _CONFLICT_ATTEMPTS:
                            raise
                    else:
                        return answer["ETag"]
            raise AssertionError("the last attempt returns or raises")
        except _RefusedOnRetry as refused:
            return self._etag_if_ours(key, data, refused)

    def upload_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        with self._explained("write", key):
            self._client.upload_file(
                str(path), self._bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=_TRANSFER
            )

    def download_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained("read", key):
            self._client.download_file(self._bucket, key, str(path), Config=_TRANSFER)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        with self._explained("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    @retry(
        retry=retry_if_exception_type(_BrokenBodyError),
        stop=stop_after_attempt(_BODY_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )
    def _read_object(self, **request: Any) -> Blob:
        """Call GetObject: boto retries the request, this retries the body.

        While an object is replaced, some servers send the old body with the new checksum, or the reverse.
        """
        answer = self._client.get_object(Bucket=self._bucket, **request)
        try:
            return Blob(answer["Body"].read(), answer["ETag"])
        except (HTTPClientError, IncompleteReadError, FlexibleChecksumError) as error:
            raise _BrokenBodyError(error=error) from error

    def _etag_if_ours(self, key: str, data: bytes, refused: PreconditionFailed) -> str:
        """Return the etag where the object is what we wanted to write, else raise `refused`.

        boto had tried again: its first try may have written, and only the answer was lost.
        """
        found = self.get(key)
        if found.data != data:
            raise refused
        return found.etag

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        """Turn boto's errors into the ones that `ObjectStore` names."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise UserError(
                f"{self._field}: no credentials for {self._endpoint}: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                f"(in a cluster: in {_NAMED_SECRET})",
                ExitCode.STORAGE_ERROR,
            ) from error
        except ParamValidationError as error:
            raise UserError(f"{self._field}: {self.uri}{key} is not a usable S3 URI: {error}") from error
        except ClientError as error:
            raise self._explain(error, verb, key) from error
        except (BotoCoreError, S3UploadFailedError) as error:
            if isinstance(error.__context__, ClientError):
                raise self._explain(error.__context__, verb, key) from error
            raise StorageUnavailable(f"cannot {verb} {self.uri}{key} at {self._endpoint}: {error}") from error

    def _explain(self, error: ClientError, verb: str, key: str) -> Exception:
        code = _code_of(error)
        if code == "NoSuchKey":
            return NotFound(f"{self.uri}{key} does not exist at {self._endpoint}")
        if code == "PreconditionFailed":
            retried = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            kind = _RefusedOnRetry if retried else PreconditionFailed
            return kind(f"{self.uri}{key} was written by someone else")
        failed = f"{self._field}: cannot {verb} {self.uri}{key} at {self._endpoint}"
        if code in _REMEDIES:
            return UserError(f"{failed}: {_REMEDIES[code].format(field=self._field)}", ExitCode.STORAGE_ERROR)
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _REFUSING_STATUSES:
            return UserError(f"{failed}: it refuses: {error}", ExitCode.STORAGE_ERROR)
        return StorageUnavailable(f"{failed}: {error}")


class _RefusedOnRetry(PreconditionFailed):
    """A refusal of boto's second or later try: the first may have been the one that wrote."""


@cache
def open_client(endpoint: str | None, region: str | None, addressing: Addressing) -> S3Client:
    """Make the client of a server, once per process: credentials are read once."""
    config = Config(
        s3={"addressing_style": addressing},
        retries={"mode": "standard", "total_max_attempts": _MAX_ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config)


def _code_of(error: ClientError) -> str:
    """Return S3's name for the error. The answer to HEAD has no body, so its code is a number: translate that."""
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _CODE_OF_STATUS.get(status, code) if code.isdigit() or not code else code
