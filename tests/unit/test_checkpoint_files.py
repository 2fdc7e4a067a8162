"""What is read of a checkpoint can be foreign: nothing in it is run."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.checkpoint_files import CheckpointFolder, Manifest, PlainLoadPlanner, VerifiedReader, describe_file
from runyard_trainer.contract import Storage
from runyard_trainer.storage import open_store


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
    remote = tmp_path / "remote"
    remote.mkdir()
    (remote / ".metadata").write_bytes(pickle_call(module, name, str(tmp_path / "ran")))
    manifest = Manifest(step=1, epoch=1, world_size=1, tokens=1, files=(describe_file(remote / ".metadata"),))
    folder = CheckpointFolder(open_store(f"file://{remote}", Storage()), manifest, tmp_path / "local")
    with pytest.raises(pickle.UnpicklingError, match="has no place"):
        VerifiedReader(folder).read_metadata()
    assert not (tmp_path / "ran").exists()
