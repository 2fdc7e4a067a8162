"""Decompress files that end in .gz or .zst as they are read."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import BinaryIO

import zstandard

ENDINGS = (".gz", ".zst")

DamagedErrors = (gzip.BadGzipFile, zlib.error, EOFError, zstandard.ZstdError)
"""The errors that reading a damaged file raises."""


def decompress(raw: io.BufferedReader, uri: str) -> io.BufferedReader:
    """Open a file's contents, decompressed if its name ends in .gz or .zst."""
    if uri.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]  # it reads as one; typeshed does not say so
    if uri.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(raw), buffer_size=1 << 20)
    return raw


class _ZstdReader(io.RawIOBase):
    """A reader of frame after frame; zstandard's own reader takes a file that was cut off for a whole one."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has no writable buffer to index
        while not self._pending:
            self._compressed = self._compressed or self._raw.read(64 << 10)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._pending = memoryview(self._frame.decompress(self._compressed))
            self._compressed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes
