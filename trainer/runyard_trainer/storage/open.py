"""Open the store that a URI names."""

from __future__ import annotations

from urllib.parse import unquote

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.folder import FolderStore
from runyard_trainer.storage.s3 import S3Store


def open_store(uri: str, storage: Storage, field: str = "uri") -> Location:
    """Return the location that a URI names. Reads and writes nothing; boto3 finds the credentials in its usual places.

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
