"""Runs of tiny models from scratch over a small corpus, which is prepared once for all of them."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare

from tests.ranks.outputs import folder_of

LENGTH = 64
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
GPT2_WITHOUT_DROPOUT = GPT2 | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

_WORDS = "the a cat dog bird sees likes finds small red old house tree and but then".split()  # noqa: SIM905 - a list of words reads best as a sentence


def write_corpus(folder: Path) -> None:
    """Write documents of very different lengths, so that sequences hold several and documents span several."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(7)
    for number in range(160):
        words = chance.choices(_WORDS, k=chance.choice([3, 10, 40, 200]))
        (folder / f"{number:03}.txt").write_text(" ".join(words) + f" {number}\n")


def build_recipe(folder: Path, output: str, config: dict[str, Any] = LLAMA, **training: Any) -> Recipe:
    """Build a run over the corpus in `folder`, its output beside it; `training` overrides its part."""
    return Recipe.model_validate(
        {
            "model": {"scratch": {"config": config, "tokenizer": {"train": {"vocabSize": 400}}}},
            "data": {
                "train": [{"uri": f"file://{folder}/text/"}],
                "validation": {"fraction": 0.04},
                "replay": {"fraction": 0.2, "sources": [{"uri": f"file://{folder}/text/"}]},
            },
            "training": {
                "steps": 20,
                "sequenceLength": LENGTH,
                "batchSequences": 10,
                "microBatch": 2,
                "learningRate": 3e-3,
                "schedule": {"warmup": 0.1},
                "seed": 3,
                **training,
            },
            "evaluation": {"before": False},
            "checkpoint": {"everySteps": 5},
            "output": {"uri": f"file://{folder}/{output}"},
        }
    )


def prepare_corpus(folder: Path) -> None:
    """Write the corpus and prepare it, once for all outputs beside it."""
    write_corpus(folder / "text")
    recipe = build_recipe(folder, "prepared")
    prepare(recipe, RunContext.from_environment({}, recipe))


def prepared_recipe(folder: Path, output: str, config: dict[str, Any] = LLAMA, **training: Any) -> Recipe:
    """Build such a run on what `prepare_corpus` has left."""
    recipe = build_recipe(folder, output, config, **training)
    copy_prepared(folder, recipe)
    return recipe


def copy_prepared(folder: Path, recipe: Recipe) -> None:
    """Leave at the run's output what prepare would leave there."""
    folder_of(recipe).mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "prepared" / "resolved.json", folder_of(recipe))
