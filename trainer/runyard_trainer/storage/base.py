"""What the trainer asks of a store of objects, whichever it is."""

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
    """An object, whole.

    The etag is that of the data or, where the object was replaced while it was read, of a version before it: a write on
    its condition never replaces what was not read.
    """

    data: bytes
    etag: str


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing says of an object. The etag changes when the object does."""

    key: str
    size_bytes: int
    etag: str


class ObjectStore(Protocol):
    """A bucket, or a file system. Keys are /-separated and have no leading slash.

    Every method raises `UserError(STORAGE_ERROR)` for what will not mend, `StorageUnavailable` for what may,
    and `NotFound` for an object that is not there.
    """

    @property
    def uri(self) -> str:
        """What a key is appended to, to make its URI: ends in a slash."""

    def get(self, key: str) -> Blob:
        """Read a whole object."""

    def get_range(self, key: str, start: int, num_bytes: int, if_match: str | None = None) -> bytes:
        """Read up to `num_bytes` from `start`; PreconditionFailed where the object has changed."""

    def head(self, key: str) -> ObjectInfo:
        """Size and etag."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with the prefix, in order of key."""

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """Write an object at once; returns its etag.

        Raises:
            PreconditionFailed: `if_match`: its etag is another; `if_none_match`: it exists.
        """

    def upload_file(self, key: str, path: Path) -> None:
        """Write a file of any size; the store checks what it received."""

    def download_file(self, key: str, path: Path) -> None:
        """Read an object of any size into a file."""

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none."""


@dataclass(frozen=True)
class Location:
    """A key of a store: an object, or what lies below. `location / "name"` goes down."""

    store: ObjectStore
    prefix: str
    """The key, without slashes at its ends; empty for a whole bucket."""

    def __truediv__(self, name: str) -> Location:
        return Location(self.store, f"{self.prefix}/{name}".strip("/"))

    @property
    def parent(self) -> Location:
        """One level up."""
        return Location(self.store, self.prefix.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.prefix.rpartition("/")[2]

    @property
    def uri(self) -> str:
        """For people and for `open_store`."""
        return self.store.uri + self.prefix

    def __str__(self) -> str:
        return self.uri

    def get(self) -> Blob:
        """As `ObjectStore.get`."""
        return self.store.get(self.prefix)

    def head(self) -> ObjectInfo:
        """As `ObjectStore.head`."""
        return self.store.head(self.prefix)

    def exists(self) -> bool:
        """Whether there is an object with this very key."""
        try:
            self.head()
        except NotFound:
            return False
        return True

    def list(self) -> Iterator[ObjectInfo]:
        """The objects below, at any depth."""
        return self.store.list(f"{self.prefix}/" if self.prefix else "")

    def children(self) -> dict[str, ObjectInfo]:
        """The objects below, at any depth, by what their keys add to this one."""
        skipped = len(self.prefix) + 1 if self.prefix else 0
        return {info.key[skipped:]: info for info in self.list()}

    def put(self, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """As `ObjectStore.put`."""
        return self.store.put(self.prefix, data, if_match=if_match, if_none_match=if_none_match)

    def upload_file(self, path: Path) -> None:
        """As `ObjectStore.upload_file`."""
        self.store.upload_file(self.prefix, path)

    def download_file(self, path: Path) -> None:
        """As `ObjectStore.download_file`."""
        self.store.download_file(self.prefix, path)

    def delete(self) -> None:
        """As `ObjectStore.delete`."""
        self.store.delete(self.prefix)

    def open(self, on_read: Callable[[int], object] = lambda _: None) -> io.BufferedReader:
        """A stream over the object as it is now; PreconditionFailed while reading if it changes meanwhile.

        Args:
            on_read: told how many bytes each request brought.
        """
        return io.BufferedReader(_RangeReader(self.store, self.head(), on_read), buffer_size=_READ_BYTES)


_READ_BYTES = 8 << 20


class _RangeReader(io.RawIOBase):
    """Reads by ranges: each is retried by itself, so that a long read outlives a dropped connection."""

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
