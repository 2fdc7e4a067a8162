"""The training loop on real ranks: the world's size changes nothing, and neither does an interruption."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runyard_trainer.context import World
from runyard_trainer.contract.exits import ExitCode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.data.order import Order
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.training.batches import Batches

from tests.ports import free_port
from tests.ranks.attempts import die, disturbed_rank, once_it_commits, send_sigterm, train_rank
from tests.ranks.outputs import digest_of_weights, folder_of, open_prepared, read_losses, read_metrics, read_output
from tests.ranks.pretraining import GPT2, build_recipe, prepare_corpus, prepared_recipe
from tests.ranks.run_ranks import end_ranks, run_ranks
from tests.waiting import wait_until

pytestmark = pytest.mark.resume


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    prepare_corpus(folder)
    return folder


def hanging_rank(world: World, recipe: Recipe, on_stall: str) -> str:
    """Train, but rank 1 hangs once a checkpoint is committed: for ever, or for a few seconds where it is only told."""
    stacks = folder_of(recipe) / "stacks" / "attempt-1"

    def hang(*_: object) -> None:
        wait_until(lambda: on_stall != "Restart" and len(list(stacks.glob("*.txt"))) == world.size, 120)

    signal.signal(signal.SIGUSR1, hang)
    if world.rank == 1:
        once_it_commits(recipe, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    return train_rank(world, recipe, 1, {"RUNYARD_STALL_SECONDS": "2", "RUNYARD_ON_STALL": on_stall})


LAUNCHER = "import os, sys; from runyard_trainer.launch.__main__ import main; sys.exit(main(os.environ, sys.argv[1:]))"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ------------------------------------------------------------------------------------------ world's size


def test_losses_agree_to_1e_5_with_1_2_3_and_4_processes(folder: Path) -> None:
    losses = {}
    for size in (1, 2, 3, 4):
        recipe = prepared_recipe(folder, f"world-{size}")
        assert run_ranks(train_rank, size, recipe) == ["finished"] * size
        losses[size] = read_losses(recipe)
    assert len(losses[1]) == 20
    assert losses[1][-1] < losses[1][0] - 0.5
    for size in (2, 3, 4):
        assert losses[size] == pytest.approx(losses[1], rel=1e-5)


def test_with_micro_batches_of_one_dropout_belongs_to_the_sample_and_not_to_the_rank(folder: Path) -> None:
    losses = {}
    for size in (1, 3):
        recipe = prepared_recipe(folder, f"dropout-{size}", GPT2, steps=6, microBatch=1)
        assert run_ranks(train_rank, size, recipe) == ["finished"] * size
        losses[size] = read_losses(recipe)
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)


def test_the_same_samples_come_in_the_same_order_with_any_number_of_processes(folder: Path) -> None:
    recipe = build_recipe(folder, "prepared")
    dataset = open_prepared(recipe)
    streams = {name: kind_of(recipe, name).open_samples(dataset, name, recipe) for name in ("train", "replay")}
    objective = build_objective(recipe, dataset.info)
    order = Order(
        num_train=len(streams["train"]),
        num_replay=len(streams["replay"]),
        replay_fraction=0.2,
        batch=10,
        seed=3,
    )

    def read_step(size: int, step: int) -> torch.Tensor:
        ranks = [Batches(streams, objective, order, World(rank, size, rank, size), 2) for rank in range(size)]
        parts = [rank.step(step).micro_batches for rank in ranks]
        for rank in ranks:
            rank.close()
        in_order = [part[micro_step].inputs["input_ids"] for micro_step in range(len(parts[0])) for part in parts]
        return torch.cat(in_order)[: order.batch]

    for step in range(20):
        want = read_step(1, step)
        for size in (2, 3, 4):
            assert torch.equal(read_step(size, step), want)


# ------------------------------------------------------------------------------------------ interruptions


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_stopped_by_sigterm_and_resumed_ends_with_the_same_bits(folder: Path, size: int) -> None:
    want, stopped = (prepared_recipe(folder, f"{name}-{size}", steps=60) for name in ("whole", "stopped"))
    assert run_ranks(train_rank, size, want) == ["finished"] * size

    ends = run_ranks(disturbed_rank, size, stopped, size - 1, send_sigterm)
    saved = read_output(stopped, "head.json")["checkpoint"]["step"]
    assert ends == [f"interrupted: stopped by a signal; step {saved} is saved"] * size
    assert 0 < saved < 60
    assert run_ranks(train_rank, size, stopped, 2) == ["finished"] * size

    assert digest_of_weights(stopped) == digest_of_weights(want)
    assert read_losses(stopped) == read_losses(want)


def test_a_rank_that_dies_interrupts_the_others_and_the_next_attempt_ends_with_the_same_bits(folder: Path) -> None:
    want, broken = (prepared_recipe(folder, f"{name}-3", steps=60) for name in ("unharmed", "broken"))
    assert run_ranks(train_rank, 3, want) == ["finished"] * 3

    ends = end_ranks(disturbed_rank, 3, broken, 1, die)
    assert ends[1].error == "exit code -9"
    assert all(str(ends[rank].value).startswith("interrupted: lost a peer") for rank in (0, 2)), ends
    assert run_ranks(train_rank, 3, broken, 2) == ["finished"] * 3

    assert digest_of_weights(broken) == digest_of_weights(want)
    assert [row["step"] for row in read_metrics(broken)] == [str(step) for step in range(1, 61)]


def test_a_finished_run_is_not_trained_again(folder: Path) -> None:
    recipe = prepared_recipe(folder, "again", steps=2)
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    before = read_output(recipe, "head.json")["result"]
    assert run_ranks(train_rank, 1, recipe, 2) == ["finished"]
    assert read_output(recipe, "head.json")["result"] == before


def test_a_run_goes_on_with_another_number_of_ranks_on_the_same_samples(folder: Path) -> None:
    undisturbed, elastic = prepared_recipe(folder, "rigid"), prepared_recipe(folder, "elastic")
    assert run_ranks(train_rank, 1, undisturbed) == ["finished"]
    ended = run_ranks(disturbed_rank, 3, elastic, 0, send_sigterm)
    assert all(end.startswith("interrupted") for end in ended)
    assert run_ranks(train_rank, 2, elastic, 2) == ["finished"] * 2
    assert len(read_losses(elastic)) == 20
    assert read_losses(elastic) == pytest.approx(read_losses(undisturbed), abs=1e-5)


# ------------------------------------------------------------------------------------------ hanging


def read_stacks(recipe: Recipe) -> list[str]:
    folder = folder_of(recipe) / "stacks" / "attempt-1"
    return [(folder / f"rank-{rank}.txt").read_text() for rank in range(2)]


def test_a_rank_that_hangs_ends_the_attempt_once_every_rank_has_left_its_stacks(folder: Path) -> None:
    recipe = prepared_recipe(folder, "hanging", steps=60)
    ended = end_ranks(hanging_rank, 2, recipe, "Restart")
    assert ended[1].error == f"exit code {ExitCode.STALLED.value}"
    assert ended[0].value != "finished", "it ended likewise, or as it lost the other"
    waiting, hanging = read_stacks(recipe)
    assert "/torch/distributed/" in waiting, "in whichever collective is the next"
    assert "in hang\n" in hanging
    assert run_ranks(train_rank, 2, recipe, 2) == ["finished"] * 2


def test_a_rank_that_hangs_for_a_while_is_only_told_where_nothing_is_restarted(folder: Path) -> None:
    recipe = prepared_recipe(folder, "told", steps=60)
    assert run_ranks(hanging_rank, 2, recipe, "Notify") == ["finished"] * 2
    assert "in hang\n" in read_stacks(recipe)[1]


def test_a_pod_that_still_waits_for_the_others_ends_at_once_when_it_is_told_to(folder: Path, tmp_path: Path) -> None:
    recipe, port, message = tmp_path / "recipe.yaml", free_port(), tmp_path / "message"
    recipe.write_text(prepared_recipe(folder, "alone-of-two").model_dump_json(by_alias=True, exclude_none=True))
    env = {
        "JOB_COMPLETION_INDEX": "0",
        "RUNYARD_NODES": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RUNYARD_TERMINATION_LOG": str(message),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-c", LAUNCHER, sys.executable, "-m", "runyard_trainer", "train", str(recipe)]
    with subprocess.Popen(command, env={**os.environ, **env}) as launcher:
        try:
            wait_until(lambda: listens(port), 120)
            launcher.send_signal(signal.SIGTERM)
            assert launcher.wait(20) == ExitCode.INTERRUPTED, "the grace period is 120 s"
        finally:
            launcher.kill()
    assert "training had not begun" in PodReport.model_validate_json(message.read_bytes()).message
