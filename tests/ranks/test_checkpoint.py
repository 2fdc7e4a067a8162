"""Checkpoints on real gloo ranks: what comes back is what was saved, whatever broke in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.checkpoints.checkpointer import Checkpointer
from runyard_trainer.checkpoints.head import Head
from runyard_trainer.context import World
from runyard_trainer.contract.exits import ExitCode, Interrupted, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.contract.training import Checkpoint
from runyard_trainer.ranks.distributed import is_peer_loss
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.ranks.run_ranks import end_ranks, run_ranks

pytestmark = pytest.mark.resume


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
        """Return whole tensors, on every rank, comparable by equality."""
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
    return Checkpointer(output, head, world, folder / f"scratch-{attempt}", Checkpoint(**retention))


def open_output(folder: Path) -> Location:
    return open_store(f"file://{folder}/output", Storage())


def save_steps(world: World, folder: Path, steps: list[int], retention: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Train and save at each of the steps; return the content of each."""
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


@pytest.mark.parametrize(("save_size", "restore_size"), [(2, 2), (4, 4), (4, 2), (1, 2)])
def test_what_is_restored_equals_what_was_saved_bit_for_bit(tmp_path: Path, save_size: int, restore_size: int) -> None:
    saved = run_ranks(save_steps, save_size, tmp_path, [3], {})
    restored = run_ranks(restore_newest, restore_size, tmp_path)
    assert restored == [(3, saved[0][3])] * restore_size


def test_nothing_is_restored_where_nothing_was_committed(tmp_path: Path) -> None:
    [(step, content), _] = run_ranks(restore_newest, 2, tmp_path)
    assert step is None
    assert content["rows"] == ""


DAMAGES: dict[str, Callable[[Path], object]] = {
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


@pytest.fixture(scope="module")
def restored_after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[int | None, bool]]]:
    """Return by damage to the newer of two checkpoints, and rank: the step restored, and whether it is right."""
    whole = tmp_path_factory.mktemp("whole")
    saved = run_ranks(save_steps, 2, whole, [1, 2], {})[0]
    folders = {name: tmp_path_factory.mktemp("damaged") for name in DAMAGES}
    for name, damage in DAMAGES.items():
        shutil.copytree(whole / "output", folders[name] / "output")
        damage(folders[name] / "output" / "checkpoints" / "step-00000002-e1")
    restored = run_ranks(restore_each, 2, list(folders.values()))
    return {
        name: [(rank[place][0], rank[place][1] == saved[1]) for rank in restored] for place, name in enumerate(folders)
    }


def restore_each(world: World, folders: list[Path]) -> list[tuple[int | None, dict[str, Any]]]:
    return [restore_newest(world, folder) for folder in folders]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_on_all_ranks(
    restored_after: dict[str, list[tuple[int | None, bool]]], damage: str
) -> None:
    assert restored_after[damage] == [(1, True), (1, True)]


@dataclass
class Faulty:
    """A real store that does something else before it uploads a file of step 2."""

    store: Any
    fault: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def upload_file(self, key: str, path: Path) -> None:
        if "step-00000002" in key:
            self.fault()
        self.store.upload_file(key, path)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise UserError("no right to write", ExitCode.STORAGE_ERROR)


def save_with_fault_on_rank_1(world: World, folder: Path, fault: Callable[[], None]) -> str:
    """Return how the second of two saves ended on this rank."""
    output = open_output(folder)
    head = Head.claim(output, "run-uid", 1) if world.rank == 0 else None
    where = Location(Faulty(output.store, fault), output.prefix) if world.rank == 1 else output
    checkpointer = Checkpointer(where, head, world, folder / "scratch", Checkpoint())
    trained = TrainedModel(world, seed=1)
    for step in (1, 2):
        trained.train(1)
        checkpointer.save(step, {"run": trained}, tokens=step)
    try:
        checkpointer.wait()
    except (RuntimeError, UserError, Interrupted) as error:
        return f"{type(error).__name__}: {is_peer_loss(error)}: {error}"
    return "saved"


def test_a_rank_killed_in_mid_upload_leaves_the_checkpoint_before_and_no_rank_waiting(tmp_path: Path) -> None:
    survivor, killed = end_ranks(save_with_fault_on_rank_1, 2, tmp_path, die)
    assert killed.error == "exit code -9"
    assert str(survivor.value).startswith("RuntimeError: True: ")
    restored = run_ranks(restore_newest, 2, tmp_path)
    assert [step for step, _ in restored] == [1, 1]
    left = sorted(path.parent.name for path in (tmp_path / "output" / "checkpoints").rglob("*.distcp"))
    assert set(left) == {"step-00000001-e1"}


def test_a_failure_of_one_rank_is_raised_on_all(tmp_path: Path) -> None:
    ends = run_ranks(save_with_fault_on_rank_1, 2, tmp_path, refuse)
    assert ends == ["UserError: False: no right to write"] * 2
    assert json.loads((tmp_path / "output" / "head.json").read_text())["checkpoint"]["step"] == 1


def save_after_a_successor_has_claimed(world: World, folder: Path) -> str:
    checkpointer = open_checkpointer(world, folder, attempt=1)
    if world.rank == 0:
        Head.claim(open_output(folder), "run-uid", 2)
    checkpointer.save(1, {"run": TrainedModel(world, seed=1)}, tokens=1)
    try:
        checkpointer.wait()
    except Interrupted as error:
        return str(error)
    return "saved"


def test_all_ranks_of_a_succeeded_attempt_learn_of_it_from_their_save(tmp_path: Path) -> None:
    ends = run_ranks(save_after_a_successor_has_claimed, 2, tmp_path)
    assert all("attempt 2 of run run-uid has it, with epoch 2" in end for end in ends)
    assert json.loads((tmp_path / "output" / "head.json").read_text())["checkpoint"] is None
