"""Upload the files of a checkpoint, and read back only what is known to be whole.

A checkpoint is a folder `checkpoints/step-<8 digits>-e<epoch>/` of torch DCP files and a manifest with the size and
sha256 of each. head.json holds the sha256 of the manifest, so whatever is read back is known to be what was written.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from pathlib import Path, PosixPath
from typing import Any

import torch
from pydantic import ValidationError
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.serialization import _get_layout

from runyard_trainer.checkpoints.head import CheckpointEntry
from runyard_trainer.contract.reports import Report
from runyard_trainer.storage.base import Location, NotFound
from runyard_trainer.storage.disk import explain_full_disk
from runyard_trainer.storage.lock import locked

CHECKPOINTS_NAME = "checkpoints"
MANIFEST_NAME = "manifest.json"
DCP_METADATA_NAME = ".metadata"

SHARDED, TRAIN_STATE, MONITOR = "sharded", "train", "monitor"
"""The parts of what a run saves, by name: what is sharded over the ranks, the loop's state, the metrics."""
WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""The parts of what is sharded, by name."""
MODEL_WEIGHTS_PREFIX = f"{SHARDED}.{WEIGHTS}.model."
"""What the names of the model's weights begin with in a checkpoint: `model` is the model in its objective's module.
Other runs find the weights of this one by it: never change it.
"""

_READS = 2
"""Reads of a file before it counts as damaged: it may be damaged on its way only, and the next commit deletes it."""


class Corrupt(Exception):  # noqa: N818 - what is found of a checkpoint, not an error of this program
    """A finding that a checkpoint is not whole: a file is missing, or is not what the manifest says."""


class FileEntry(Report):
    """A file of a checkpoint, as its manifest lists it."""

    name: str
    """Key of the file, relative to the checkpoint's folder."""
    bytes: int
    """Size of the file."""
    sha256: str
    """sha256 of the file's content."""


class Manifest(Report):
    """The list of a checkpoint's files; written after all of them, it makes the checkpoint complete."""

    step: int
    """Optimizer steps it holds."""
    epoch: int
    """Epoch of the claim of the head under which it was written."""
    world_size: int
    """Ranks that wrote it; any number can read it."""
    tokens: int
    """Tokens trained on so far."""
    files: tuple[FileEntry, ...]
    """All other files of the folder."""


def folder_name(step: int, epoch: int) -> str:
    """Return the name of a checkpoint's folder below `checkpoints/`."""
    return f"step-{step:08d}-e{epoch}"


def upload_file(path: Path, folder: Location) -> FileEntry:
    """Upload a staged file to a checkpoint's folder."""
    entry = describe_file(path)
    (folder / entry.name).upload_file(path)
    return entry


def describe_file(path: Path) -> FileEntry:
    """Return name, size and sha256 of a local file."""
    with path.open("rb") as file:
        return FileEntry(
            name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def read_manifest(output: Location, entry: CheckpointEntry) -> Manifest:
    """Read the manifest that the head names.

    Raises:
        Corrupt: it is missing, or its sha256 is another.
    """
    location = output / entry.manifest
    try:
        data = location.get().data
    except NotFound as error:
        raise Corrupt(f"{location} is missing") from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise Corrupt(f"{location} is not the one that was committed: its sha256 is another")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Corrupt(f"{location} is none: {error.errors()[0]['msg']}") from error


class CheckpointFolder:
    """A checkpoint on the store, with copies on the node's disk of the files that its ranks need."""

    def __init__(self, remote: Location, manifest: Manifest, local: Path) -> None:
        self._remote = remote
        self._files = {file.name: file for file in manifest.files}
        self.local = local
        local.mkdir(parents=True, exist_ok=True)

    def fetch(self, name: str) -> Path:
        """Return the path of a file's verified copy; download it once for all ranks of this node.

        Raises:
            Corrupt: the file is missing, or is not what the manifest says.
            UserError: the disk is full.
        """
        path = self.local / name
        with locked(self.local / f"{name}.lock"):
            if not path.exists():
                with explain_full_disk("read a checkpoint", self.local):
                    self._download(name, path)
        return path

    def remove_local(self) -> None:
        """Delete the copies."""
        shutil.rmtree(self.local, ignore_errors=True)

    def _download(self, name: str, path: Path) -> None:
        expected = self._files.get(name)
        if expected is None:
            raise Corrupt(f"the manifest of {self._remote} has no {name}")
        partial = path.with_name(f"{name}.partial")
        for _ in range(_READS):
            try:
                (self._remote / name).download_file(partial)
            except NotFound as error:
                raise Corrupt(f"{self._remote / name} is missing") from error
            found = describe_file(partial)
            if (found.bytes, found.sha256) == (expected.bytes, expected.sha256):
                partial.rename(path)
                return
            partial.unlink()
        raise Corrupt(
            f"{self._remote / name} is damaged: {found.bytes} bytes with sha256 {found.sha256[:12]}…, "
            f"the manifest says {expected.bytes} and {expected.sha256[:12]}…"
        )


class StagingWriter(FileSystemWriter):
    """Writes a rank's part by DCP, and says in words when the disk is full."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        """Write the values. Raise UserError where the disk is full."""
        with explain_full_disk("stage a checkpoint", self.path):
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index, on rank 0. Raise UserError where the disk is full."""
        with explain_full_disk("stage a checkpoint", self.path):
            super().finish(metadata, results)


class VerifiedReader(FileSystemReader):
    """A DCP reader of verified files. Each rank fetches the files of its part of the plan while planning, which all
    ranks do together: where one is corrupt, all raise before anything is read into the model.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        super().__init__(folder.local)
        self._folder = folder

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Read the index of the checkpoint, unpickled with nothing but DCP's own classes."""
        with self._folder.fetch(DCP_METADATA_NAME).open("rb") as file:
            return _MetadataUnpickler(file).load_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Fetch the files that this rank is about to read."""
        for name in sorted({self.storage_data[item.storage_index].relative_path for item in plan.items}):
            self._folder.fetch(name)
        return super().prepare_local_plan(plan)


class PlainLoadPlanner(DefaultLoadPlanner):
    """A DCP planner that loads numbers, strings, lists and dicts without running pickled code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Load one value into the state, after a check that it loads without code of its own."""
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


class _MetadataUnpickler(pickle.Unpickler):
    """An unpickler of DCP's index that builds its classes and nothing else, whichever Python has written it."""

    def find_class(self, module: str, name: str) -> Any:
        if found := _INDEX_GLOBALS.get((module, name)):
            return found
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"the checkpoint's index asks for {module}.{name}, which has no place in one")

    def load_metadata(self) -> Metadata:
        metadata = self.load()
        assert isinstance(metadata, Metadata)
        return metadata


def _get_memory_format(kind: object, name: str) -> _MEM_FORMAT_ENCODING:
    """Stand in for `getattr`, by which early Pythons 3.11, such as Debian 12's, pickle a member of an Enum."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"the checkpoint's index asks for {name} of {kind}, which has no place in one")
    return _MEM_FORMAT_ENCODING[name]


_INDEX_GLOBALS: dict[tuple[str, str], Any] = {
    **{
        (each.__module__, each.__name__): each
        for each in (
            Metadata,
            MetadataIndex,
            StorageMeta,
            TensorStorageMetadata,
            BytesStorageMetadata,
            ChunkStorageMetadata,
            TensorProperties,
            _MEM_FORMAT_ENCODING,
            _StorageInfo,
            torch.Size,
        )
    },
    ("builtins", "getattr"): _get_memory_format,
    ("pathlib", "PosixPath"): PosixPath,
    ("pathlib._local", "PosixPath"): PosixPath,  # where Python 3.13 has it
    ("torch.serialization", "_get_layout"): _get_layout,
}
