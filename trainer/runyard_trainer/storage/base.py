"""The interface of a store of objects, and `Location`: one of its keys.

`S3Store` and `FolderStore` implement it; everything else works on Locations.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class NotFound(Exception):  # noqa: N818 - the name of HTTP's 404
    """No object has this key."""


class PreconditionFailed(Exception):  # noqa: N818 - the name of HTTP's 412
    """The object is not, or no longer, what `if_match` or `if_none_match` asked for: someone else has written it."""


class StorageUnavailable(Exception):  # noqa: N818 - a condition, as HTTP's 503
    """The store did not answer, or answered with an error of its own, after all retries: worth another attempt."""


@dataclass(frozen=True)
class Blob:
    """The content of an object, and its etag.

    Where the object is replaced while it is read, the etag may be that of a version before `data`, never of one after
    it. So `put(..., if_match=blob.etag)` never replaces what was not read.
    """

    data: bytes
    etag: str


@dataclass(frozen=True)
class ObjectInfo:
    """An entry of a listing. The etag changes when the object does."""

    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """A bucket, or a file system. Keys are /-separated and have no leading slash.

    Every method raises `UserError(STORAGE_ERROR)` for a failure that another attempt meets again (no such bucket, no
    right to read), `StorageUnavailable` for one that may pass, and `NotFound` for an object that is not there.
    """

    @property
    def uri(self) -> str:
        """The URI of the empty key, ending in a slash: `s3://bucket/`."""

    def get(self, key: str) -> Blob:
        """Read a whole object."""

    def get_range(self, key: str, start: int, num_bytes: int, if_match: str | None = None) -> bytes:
        """Read up to `num_bytes` from `start`; raise PreconditionFailed where its etag is not `if_match`."""

    def head(self, key: str) -> ObjectInfo:
        """Read size and etag."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object whose key starts with the prefix, in order of key."""

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """Write an object in one request and return its etag.

        Raises:
            PreconditionFailed: the object has another etag than `if_match`, or exists though `if_none_match` is set.
        """

    def upload_file(self, key: str, path: Path) -> None:
        """Write a file of any size with a checksum, which the store compares with what it received."""

    def download_file(self, key: str, path: Path) -> None:
        """Read an object of any size into a file."""

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none."""


@dataclass(frozen=True)
class Location:
    """A key of a store: an object, or the objects below it. `location / "name"` is a key below."""

    store: ObjectStore
    prefix: str
    """The key, without slashes at its ends; empty for a whole bucket."""

    def __truediv__(self, name: str) -> Location:
        return Location(self.store, f"{self.prefix}/{name}".strip("/"))

    @property
    def parent(self) -> Location:
        """The location one level up."""
        return Location(self.store, self.prefix.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.prefix.rpartition("/")[2]

    @property
    def uri(self) -> str:
        """The URI, for people and for `open_store`."""
        return self.store.uri + self.prefix

    def __str__(self) -> str:
        return self.uri

    def get(self) -> Blob:
        """Read the object; see `ObjectStore.get`."""
        return self.store.get(self.prefix)

    def head(self) -> ObjectInfo:
        """Read size and etag; see `ObjectStore.head`."""
        return self.store.head(self.prefix)

    def exists(self) -> bool:
        """Return whether there is an object with exactly this key."""
        try:
            self.head()
        except NotFound:
            return False
        return True

    def list(self) -> Iterator[ObjectInfo]:
        """List the objects below, at any depth."""
        return self.store.list(f"{self.prefix}/" if self.prefix else "")

    def children(self) -> dict[str, ObjectInfo]:
        """Return the objects below, at any depth, by the rest of their keys: `weights/0.bin` below `s3://bucket/run`."""
        skipped = len(self.prefix) + 1 if self.prefix else 0
        return {info.key[skipped:]: info for info in self.list()}

    def put(self, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """Write the object; see `ObjectStore.put`."""
        return self.store.put(self.prefix, data, if_match=if_match, if_none_match=if_none_match)

    def upload_file(self, path: Path) -> None:
        """Write the object from a file; see `ObjectStore.upload_file`."""
        self.store.upload_file(self.prefix, path)

    def download_file(self, path: Path) -> None:
        """Read the object into a file; see `ObjectStore.download_file`."""
        self.store.download_file(self.prefix, path)

    def delete(self) -> None:
        """Remove the object; see `ObjectStore.delete`."""
        self.store.delete(self.prefix)

    def open(self, on_read: Callable[[int], object] = lambda _: None) -> io.BufferedReader:
        """Open a stream over the object as it is now; reading it raises PreconditionFailed once the object has changed.

        Args:
            on_read: called with the number of bytes that each request has brought.
        """
        return io.BufferedReader(_RangeReader(self.store, self.head(), on_read), buffer_size=_READ_BYTES)


_READ_BYTES = 8 << 20


class _RangeReader(io.RawIOBase):
    """A stream that reads by ranges: each is retried by itself, so a long read outlives a dropped connection."""

    def __init__(self, store: ObjectStore, info: ObjectInfo, on_read: Callable[[int], object]) -> None:
        self._store = store
        self._info = info
        self._on_read = on_read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has no writable buffer to index
        data = self._read_next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._read_next(_READ_BYTES), b""))

    def _read_next(self, max_bytes: int) -> bytes:
        num_bytes = min(max_bytes, self._info.size_bytes - self._position)
        if num_bytes <= 0:
            return b""
        data = self._store.get_range(self._info.key, self._position, num_bytes, if_match=self._info.etag)
        self._position += len(data)
        self._on_read(len(data))
        return data
