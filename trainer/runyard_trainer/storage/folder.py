"""Objects as files, for a run without S3, on one machine only: conditional writes hold a lock of its kernel."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.storage.base import Blob, NotFound, ObjectInfo, PreconditionFailed, StorageUnavailable

_TEMPORARY_PREFIX = ".runyard-tmp-"
_HASHED_BYTES = 1 << 20
_WILL_NOT_MEND = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL}


class FolderStore:
    """The file system as a store: keys are absolute paths. Writes are atomic: a file is there whole or not at all."""

    uri = "file:///"

    def __init__(self, field: str) -> None:
        self._field = field

    def get(self, key: str) -> Blob:
        """See `ObjectStore`."""
        with self._explained(key), self._path(key).open("rb") as file:
            return Blob(file.read(), _etag_of(file))

    def get_range(self, key: str, start: int, num_bytes: int, if_match: str | None = None) -> bytes:
        """See `ObjectStore`."""
        with self._explained(key), self._path(key).open("rb") as file:
            if if_match is not None and _etag_of(file) != if_match:
                raise PreconditionFailed(f"{self.uri}{key} has changed while it was read")
            file.seek(start)
            return file.read(num_bytes)

    def head(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        with self._explained(key), self._path(key).open("rb") as file:
            return ObjectInfo(key, os.fstat(file.fileno()).st_size, _etag_of(file))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        top = self._path(prefix.rpartition("/")[0] or ".")
        with self._explained(prefix):
            paths = [Path(folder, name) for folder, _, names in os.walk(top) for name in names]
        keys = (str(path).lstrip("/") for path in paths if not path.name.startswith(_TEMPORARY_PREFIX))
        for key in sorted(key for key in keys if key.startswith(prefix)):
            yield self.head(key)

    def put(self, key: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """See `ObjectStore`."""
        with self._explained(key), self._replacing(key) as temporary:
            temporary.write_bytes(data)
            with temporary.open("rb") as written:
                etag = _etag_of(written)
            with _locked(temporary.parent):
                self._check(key, if_match, if_none_match)
                temporary.replace(self._path(key))
            return etag

    def upload_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        with self._explained(key), self._replacing(key) as temporary:
            shutil.copyfile(path, temporary)
            temporary.replace(self._path(key))

    def download_file(self, key: str, path: Path) -> None:
        """See `ObjectStore`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(key):
            shutil.copyfile(self._path(key), path)

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        with self._explained(key):
            self._path(key).unlink(missing_ok=True)

    def _check(self, key: str, if_match: str | None, if_none_match: bool) -> None:
        if if_match is None and not if_none_match:
            return
        try:
            current = self.head(key).etag
        except NotFound:
            current = None
        if (if_none_match and current is not None) or (if_match is not None and current != if_match):
            raise PreconditionFailed(f"{self.uri}{key} was written by someone else")

    def _path(self, key: str) -> Path:
        if "\0" in key or any(part == ".." for part in key.split("/")):
            raise UserError(
                f"{self._field}: {self.uri}{key} leads out of its folder: remove the '..'", ExitCode.STORAGE_ERROR
            )
        return Path("/", key)

    @contextmanager
    def _replacing(self, key: str) -> Iterator[Path]:
        """Give a temporary file beside the one to write; remove it unless it was moved there."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_TEMPORARY_PREFIX + uuid.uuid4().hex)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound(f"{self.uri}{key} does not exist") from error
        except OSError as error:
            if error.errno not in _WILL_NOT_MEND:
                raise StorageUnavailable(f"{self._field}: {self.uri}{key}: {error.strerror}") from error
            raise UserError(
                f"{self._field}: {self.uri}{key}: {error.strerror}. Choose a folder that this user may read and write",
                ExitCode.STORAGE_ERROR,
            ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder itself, so that no lock file is left in it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _etag_of(file: BufferedReader) -> str:
    """Compute the etag of the open version, even where another file has taken its place since."""
    stat = os.fstat(file.fileno())
    if stat.st_size > _HASHED_BYTES:
        return f"{stat.st_mtime_ns:x}-{stat.st_size:x}-{stat.st_ino:x}"
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
