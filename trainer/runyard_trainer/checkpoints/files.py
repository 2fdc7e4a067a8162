"""The files of a checkpoint: how they reach the store, and how only whole ones come back.

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
from runyard_trainer.storage.disk import told_when_full
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
"""Of a file before it counts as damaged: it may have been damaged on its way, and the next commit would delete it."""


class Corrupt(Exception):  # noqa: N818 - what is found of a checkpoint, not an error of this program
    """A checkpoint is not whole: a file is missing, or is not what the manifest says."""


class FileEntry(Report):
    """A file of a checkpoint."""

    name: str
    """Its key, relative to the checkpoint's folder."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its content."""


class Manifest(Report):
    """What makes a checkpoint complete; written after all its files."""

    step: int
    """Optimizer steps it holds."""
    epoch: int
    """Of the head's claim under which it was written."""
    world_size: int
    """Ranks that wrote it; any number can read it."""
    tokens: int
    """Tokens trained on so far."""
    files: tuple[FileEntry, ...]
    """All others in the folder."""


def folder_name(step: int, epoch: int) -> str:
    """Of a checkpoint, below `checkpoints/`."""
    return f"step-{step:08d}-e{epoch}"


def upload_file(path: Path, folder: Location) -> FileEntry:
    """Put a staged file into a checkpoint's folder."""
    entry = describe_file(path)
    (folder / entry.name).upload_file(path)
    return entry


def describe_file(path: Path) -> FileEntry:
    """Size and sha256 of a file here."""
    with path.open("rb") as file:
        return FileEntry(
            name=path.name, bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
        )


def read_manifest(output: Location, entry: CheckpointEntry) -> Manifest:
    """The manifest that the head points to.

    Raises:
        Corrupt: it is missing, or is another.
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
    """A checkpoint on the store, with a copy on the node's disk of what the ranks of this node need of it."""

    def __init__(self, remote: Location, manifest: Manifest, local: Path) -> None:
        self._remote = remote
        self._files = {file.name: file for file in manifest.files}
        self.local = local
        local.mkdir(parents=True, exist_ok=True)

    def fetch(self, name: str) -> Path:
        """The path of a file's verified copy; downloaded once, whichever ranks of this node ask.

        Raises:
            Corrupt: the file is missing, or is not what the manifest says.
            UserError: the disk is full.
        """
        path = self.local / name
        with locked(self.local / f"{name}.lock"):
            if not path.exists():
                with told_when_full("read a checkpoint", self.local):
                    self._download(name, path)
        return path

    def remove_local(self) -> None:
        """Delete the copy."""
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
        """The values. Raises UserError where the disk is full."""
        with told_when_full("stage a checkpoint", self.path):
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The index, on rank 0. Raises as `write_data`."""
        with told_when_full("stage a checkpoint", self.path):
            super().finish(metadata, results)


class VerifiedReader(FileSystemReader):
    """Reads a checkpoint by DCP. Each rank fetches the files that its part of the plan needs while planning: when one
    of them is corrupt every rank learns it (the plan is made together) before anything is read into the model.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        super().__init__(folder.local)
        self._folder = folder

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """The index of the checkpoint, unpickled with nothing but DCP's own classes."""
        with self._folder.fetch(DCP_METADATA_NAME).open("rb") as file:
            return _MetadataUnpickler(file).load_metadata()

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Fetch what this rank is about to read."""
        for name in sorted({self.storage_data[item.storage_index].relative_path for item in plan.items}):
            self._folder.fetch(name)
        return super().prepare_local_plan(plan)


class PlainLoadPlanner(DefaultLoadPlanner):
    """Loads values that are not tensors without running pickled code: numbers, strings, lists and dicts."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put one value into the state, once it is known to load without any code of its own."""
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


class _MetadataUnpickler(pickle.Unpickler):
    """Builds what a DCP index is made of and nothing else, whichever Python has written it."""

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
    """What `getattr` is to an index: the first Pythons 3.11, Debian 12's among them, pickle a member of an Enum so."""
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
