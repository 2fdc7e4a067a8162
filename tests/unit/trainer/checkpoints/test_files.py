"""What is read of a checkpoint can be foreign: nothing in it is run."""

from __future__ import annotations

import io
import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.checkpoints.files import (
    CheckpointFolder,
    Manifest,
    PlainLoadPlanner,
    VerifiedReader,
    describe_file,
)
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.open import open_store
from torch.distributed import checkpoint
from torch.distributed.checkpoint.metadata import Metadata

pytestmark = pytest.mark.resume


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


def test_a_value_that_would_run_code_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    torch.save(Code(tmp_path / "ran"), data)
    data.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        PlainLoadPlanner().load_bytes(None, data)  # type: ignore[arg-type]  # refused before it matters where it goes
    assert not (tmp_path / "ran").exists()


def pickle_call(module: str, name: str, argument: str) -> bytes:
    """What unpickles to module.name(argument); a name with dots leads on from what the module imports."""
    parts = [b"\x80\x04"]
    parts += [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)]
    parts += [b"\x93(S'" + argument.encode() + b"'\ntR."]
    return b"".join(parts)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "mkdir"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch", "hub.load"),
        ("torch.distributed.checkpoint.filesystem", "os.mkdir"),
        ("torch.serialization", "load"),
    ],
)
def test_an_index_that_would_run_code_is_refused(tmp_path: Path, module: str, name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="has no place"):
        read_index(tmp_path, pickle_call(module, name, str(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


class Attribute:
    """An attribute of what it is given, when it is unpickled."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.owner, self.name)


def test_an_index_gets_no_attribute_of_what_is_no_member_of_its_enum(tmp_path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError, match="has no place"):
        read_index(tmp_path, pickle.dumps(Attribute(Metadata, "__init__")))


class PicklerOf(pickle.Pickler):
    """Pickles a member of an Enum as Python 3.11.2 does, or as newer ones do."""

    def __init__(self, file: io.BytesIO, is_oldest: bool) -> None:
        super().__init__(file, protocol=2, fix_imports=False)
        self._is_oldest = is_oldest

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, Enum):
            return NotImplemented
        return (getattr, (type(obj), obj.name)) if self._is_oldest else (type(obj), (obj.value,))


@pytest.mark.parametrize("is_oldest", [True, False], ids=["3.11.2", "newer"])
@pytest.mark.parametrize("path_module", ["pathlib", "pathlib._local"], ids=["", "3.13"])
def test_an_index_is_read_whichever_python_has_written_it(tmp_path: Path, is_oldest: bool, path_module: str) -> None:
    tensors = {str(dtype): torch.zeros(2, 3, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.int64)}
    checkpoint.save({"tensors": tensors, "step": 3}, checkpoint_id=tmp_path / "saved", no_dist=True)
    written: Metadata = pickle.loads((tmp_path / "saved" / ".metadata").read_bytes())
    file = io.BytesIO()
    PicklerOf(file, is_oldest).dump(written)
    text = b"c%s\nPosixPath\n"
    index = file.getvalue().replace(text % type(tmp_path).__module__.encode(), text % path_module.encode())
    assert (b"getattr" in index, text % path_module.encode() in index) == (is_oldest, True)
    assert read_index(tmp_path, index) == written


def read_index(tmp_path: Path, index: bytes) -> Metadata:
    """As the trainer reads it from a checkpoint whose index has these bytes."""
    remote = tmp_path / "remote"
    remote.mkdir()
    (remote / ".metadata").write_bytes(index)
    manifest = Manifest(step=1, epoch=1, world_size=1, tokens=1, files=(describe_file(remote / ".metadata"),))
    folder = CheckpointFolder(open_store(f"file://{remote}", Storage()), manifest, tmp_path / "local")
    return VerifiedReader(folder).read_metadata()
