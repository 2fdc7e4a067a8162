"""Objects on S3 or in a folder: read, list, write, write if unchanged.

`open_store` makes a `Location` of a URI; `probe` shows that an output can be written and that the store keeps
conditional writes, which the fencing of attempts (head.json) rests on. boto3 is known in `storage.s3` alone.
"""

from __future__ import annotations

import uuid
from urllib.parse import unquote

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.base import (
    Blob,
    Location,
    NotFound,
    ObjectInfo,
    ObjectStore,
    PreconditionFailed,
    StorageUnavailable,
)
from runyard_trainer.storage.folder import FolderStore
from runyard_trainer.storage.patient import be_patient
from runyard_trainer.storage.s3 import S3Store

__all__ = [
    "Blob",
    "FolderStore",
    "Location",
    "NotFound",
    "ObjectInfo",
    "ObjectStore",
    "PreconditionFailed",
    "S3Store",
    "StorageUnavailable",
    "be_patient",
    "open_store",
    "probe",
]


def open_store(uri: str, storage: Storage, field: str = "uri") -> Location:
    """The location that a URI names. Nothing is read or written yet; S3 credentials are found as boto3 finds them.

    Args:
        uri: `s3://bucket/prefix` or `file:///folder`.
        storage: how to reach S3.
        field: path of the recipe's field that holds the URI, for messages.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        if not rest.startswith("/"):
            raise UserError(f"{field}: {uri} is not absolute: write file:///folder, with three slashes")
        return Location(FolderStore(field), unquote(rest).strip("/"))
    bucket, _, prefix = rest.partition("/")
    return Location(S3Store(bucket, storage, field), prefix.strip("/"))


def probe(location: Location, fencing: str = "conditional-writes") -> None:
    """Write, write conditionally, read and delete a small object below `location`.

    Raises:
        UserError: STORAGE_ERROR where something of that cannot be done, or where conditional writes are not kept
            though `fencing` asks for them.
    """
    target = location / f".runyard-probe-{uuid.uuid4().hex}"
    target.put(b"first")
    try:
        if fencing == "conditional-writes":
            _check_conditional_writes(target)
        target.get()
    finally:
        target.delete()


def _check_conditional_writes(target: Location) -> None:
    etag = target.head().etag
    enforced = (
        _is_refused(target, if_none_match=True),
        _is_refused(target, if_match='"0123456789abcdef0123456789abcdef"'),
        not _is_refused(target, if_match=etag),
    )
    if not all(enforced):
        raise UserError(
            f"{target.store.uri}: this store does not keep conditional writes (If-Match, If-None-Match), so two "
            "attempts that overlap could overwrite each other. Use a store that does, or accept the risk with "
            "storage.fencing: none",
            ExitCode.STORAGE_ERROR,
        )


def _is_refused(target: Location, *, if_match: str | None = None, if_none_match: bool = False) -> bool:
    try:
        target.put(uuid.uuid4().bytes, if_match=if_match, if_none_match=if_none_match)
    except PreconditionFailed:
        return True
    return False
