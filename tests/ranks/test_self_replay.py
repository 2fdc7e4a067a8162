"""Text to replay that the model writes itself: the same in any world, kept when interrupted, drawn by its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import Storage
from runyard_trainer.objectives.base import Traits
from runyard_trainer.objectives.causal_lm import CausalLM
from runyard_trainer.storage.open import open_store
from runyard_trainer.training import self_replay
from runyard_trainer.training.self_replay import GROUP_SEQUENCES
from transformers import AutoConfig, AutoModelForCausalLM

from tests.ranks.attempts import train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.outputs import read_losses
from tests.ranks.run_ranks import end_ranks, run_ranks
from tests.ranks.tiny_models import CONFIGS, WORDS, save_model

STEPS, BATCH, FRACTION = 20, 8, 0.25
NUM_GROUPS = 3


def prepare_self(folder: Path, output: str) -> Recipe:
    if not (folder / "model").exists():
        save_model(folder / "model", "llama", AutoModelForCausalLM)
        rows = ({"text": " ".join(WORDS[i % 7 : 3 + i % 19]) + f" {i}"} for i in range(400))
        write_rows(folder / "train.jsonl", rows)
    data = {"replay": {"fraction": FRACTION, "source": "self"}}
    recipe = build_recipe(folder, "causal-lm", output, data=data, training={"steps": STEPS, "batchSequences": BATCH})
    prepare_run(recipe)
    return recipe


def read_written(recipe: Recipe) -> dict[str, bytes]:
    folder = Path(recipe.output.uri.removeprefix("file://"), "replay")
    return {path.name: path.read_bytes() for path in folder.rglob("*.bin")}


def test_any_world_writes_the_same_and_an_interrupted_one_goes_on(tmp_path: Path) -> None:
    alone, together = prepare_self(tmp_path, "alone"), prepare_self(tmp_path, "together")
    assert run_ranks(train_rank, 1, alone) == ["finished"]
    ended = end_ranks(dying_rank, 2, together, 1)
    assert "finished" not in [end.value for end in ended]
    first = read_written(together)
    assert len(first) == 2
    assert run_ranks(train_rank, 2, together) == ["finished"] * 2
    written = read_written(together)
    assert len(written) == NUM_GROUPS == -(-int(FRACTION * STEPS * BATCH) // GROUP_SEQUENCES)
    assert first.items() <= written.items()
    assert read_written(alone).items() == written.items()
    assert read_losses(together) == pytest.approx(read_losses(alone), rel=1e-5)


def dying_rank(world: Any, recipe: Recipe, num_rounds: int) -> str:
    """Fail when so many groups of its own are written."""
    write_group, done = self_replay.write_group, []

    def write_or_die(*arguments: Any) -> Any:
        if len(done) == num_rounds:
            raise RuntimeError("killed")
        done.append(1)
        return write_group(*arguments)

    self_replay.write_group = write_or_die
    return train_rank(world, recipe)


def test_each_token_is_drawn_by_what_the_model_gives_it_behind_all_before() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=50, **CONFIGS["llama"])).eval()
    module = CausalLM(model, Traits(stochastic=False))
    with torch.no_grad():
        drawn = module.sample(torch.full((4, 1), 3), 12, torch.Generator().manual_seed(7))
        chance, ids = torch.Generator().manual_seed(7), torch.full((4, 1), 3)
        for _ in range(12):
            probabilities = model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=chance)], dim=1)
    assert torch.equal(drawn, ids[:, 1:])


def test_a_document_that_ends_within_a_sequence_is_followed_by_another_one(tmp_path: Path) -> None:
    tokens = np.full((GROUP_SEQUENCES, 6), 9, dtype="<u4")
    tokens[0] = [5, 6, 3, 7, 8, 3]
    location = open_store(f"file://{tmp_path}/replay", Storage())
    data = tokens.tobytes()
    name = f"000000-{hashlib.sha256(data).hexdigest()}.bin"
    (location / name).put(data)
    (tmp_path / "cache").mkdir()
    text = self_replay.WrittenText(location, [name], 5, 6, 3, tmp_path / "cache")
    assert len(text) == 5
    assert text[0]["input_ids"].tolist() == [5, 6, 3, 7, 8, 3]
    assert text[0]["position_ids"].tolist() == [0, 1, 2, 0, 1, 2]
    assert text[0]["labels"].tolist() == [-100, 6, 3, -100, 8, 3]
