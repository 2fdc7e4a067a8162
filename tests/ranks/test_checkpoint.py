"""Checkpoints on real gloo ranks: what comes back is what was saved, whatever broke in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.checkpoint import Checkpointer
from runyard_trainer.context import World
from runyard_trainer.contract import Storage
from runyard_trainer.head import Head
from runyard_trainer.storage import Location, open_store
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.ranks.run_ranks import run_ranks


class TrainedModel:
    """A tiny sharded model with AdamW state, and what the loop would save of it."""

    def __init__(self, world: World, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
        mesh = init_device_mesh("cpu", (world.size,))
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.rows = ""

    def train(self, num_steps: int) -> None:
        for step in range(num_steps):
            self.optimizer.zero_grad()
            self.model(torch.full((2, 7), 0.1 * (step + 1))).square().sum().backward()
            self.optimizer.step()
            self.rows += f"{step}\n"

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.rows = state["rows"]

    def content(self) -> dict[str, Any]:
        """Whole tensors, on every rank, comparable by equality."""
        state = self.state_dict()
        tensors = {f"{name}": tensor.full_tensor().tolist() for name, tensor in state["model"].items()}
        for name, values in state["optimizer"]["state"].items():
            for kind, tensor in values.items():
                whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
                tensors[f"{name}.{kind}"] = whole.tolist()
        return {**tensors, "rows": self.rows}


def open_checkpointer(world: World, folder: Path, attempt: int, **retention: Any) -> Checkpointer:
    output = open_output(folder)
    head = Head.claim(output, "run-uid", attempt) if world.rank == 0 else None
    return Checkpointer(output, head, world, folder / f"scratch-{attempt}", **retention)


def open_output(folder: Path) -> Location:
    return open_store(f"file://{folder}/output", Storage())


def save_steps(world: World, folder: Path, steps: list[int], retention: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Train and save at each of the steps; the content of each."""
    trained = TrainedModel(world, seed=1)
    checkpointer = open_checkpointer(world, folder, attempt=1, **retention)
    contents, done = {}, 0
    for step in steps:
        trained.train(step - done)
        done = step
        contents[step] = trained.content()
        checkpointer.save(step, {"run": trained}, tokens=100 * step)
    trained.train(1)  # while the last is under way: must not reach it
    checkpointer.wait()
    return contents


def restore_newest(world: World, folder: Path) -> tuple[int | None, dict[str, Any]]:
    trained = TrainedModel(world, seed=2)
    step = open_checkpointer(world, folder, attempt=2).restore({"run": trained})
    return step, trained.content()


def checkpoint_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "output" / "checkpoints").iterdir() if any(path.iterdir()))


def read_head(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "output" / "head.json").read_text())


@pytest.mark.parametrize(("save_size", "restore_size"), [(2, 2), (4, 4), (4, 2), (1, 2)])
def test_what_is_restored_equals_what_was_saved_bit_for_bit(tmp_path: Path, save_size: int, restore_size: int) -> None:
    saved = run_ranks(save_steps, save_size, tmp_path, [3], {})
    restored = run_ranks(restore_newest, restore_size, tmp_path)
    assert restored == [(3, saved[0][3])] * restore_size


def test_nothing_is_restored_where_nothing_was_committed(tmp_path: Path) -> None:
    [(step, content), _] = run_ranks(restore_newest, 2, tmp_path)
    assert step is None
    assert content["rows"] == ""


DAMAGES = {
    "a flipped byte in a rank's file": lambda folder: flip_byte(folder / "__1_0.distcp"),
    "a flipped byte in the index": lambda folder: flip_byte(folder / ".metadata"),
    "a flipped byte in the manifest": lambda folder: flip_byte(folder / "manifest.json"),
    "a file that is cut": lambda folder: (folder / "__0_0.distcp").write_bytes(b"PK"),
    "a missing file": lambda folder: (folder / "__1_0.distcp").unlink(),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
}


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    saved = run_ranks(save_steps, 2, tmp_path, [1, 2], {})
    DAMAGES[damage](tmp_path / "output" / "checkpoints" / "step-00000002-e1")
    restored = run_ranks(restore_newest, 2, tmp_path)
    assert restored == [(1, saved[0][1])] * 2
