"""A run whose sources have weights: as long as they make it, and the same whatever happens to its ranks."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.order import count_epoch
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.prepare import prepare

from tests.ranks.attempts import disturbed_rank, send_sigterm, train_rank
from tests.ranks.outputs import open_prepared, read_losses
from tests.ranks.pretraining import build_recipe, copy_prepared, write_corpus
from tests.ranks.run_ranks import run_ranks


def weigh(folder: Path, output: str, weights: tuple[float, float]) -> Recipe:
    """Build a run of an epoch over half of the corpus and the other half."""
    recipe = build_recipe(folder, output, steps=None, epochs=1)
    sources = [
        {"uri": f"file://{folder}/{name}/", "weight": weight}
        for name, weight in zip(("text", "more"), weights, strict=True)
    ]
    sections = recipe.model_dump(by_alias=True, exclude_none=True)
    return Recipe.model_validate(sections | {"data": sections["data"] | {"train": sources}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "text")
    (tmp_path / "more").mkdir()
    for path in sorted((tmp_path / "text").iterdir())[::2]:
        path.rename(tmp_path / "more" / path.name)
    recipe = weigh(tmp_path, "prepared", (1, 1))
    prepare(recipe, RunContext.from_environment({}, recipe))
    return tmp_path


@pytest.mark.full
def test_a_run_with_weights_is_the_same_with_other_ranks_after_an_interruption(folder: Path) -> None:
    whole, stopped = (weigh(folder, name, (3, 0.5)) for name in ("whole", "stopped"))
    for recipe in (whole, stopped):
        copy_prepared(folder, recipe)
    assert run_ranks(train_rank, 1, whole) == ["finished"]

    dataset = open_prepared(whole)
    parts = parts_of(whole, dataset, kind_of(whole, "train").open_samples(dataset, "train", whole))
    assert count_epoch(parts) == 3 * parts[0].size + parts[1].size / 2
    assert len(read_losses(whole)) == ceil(count_epoch(parts) / 10)
    assert count_epoch(parts) != sum(part.size for part in parts)

    ends = run_ranks(disturbed_rank, 2, stopped, 1, send_sigterm)
    assert all(end.startswith("interrupted: stopped by a signal") for end in ends)
    assert run_ranks(train_rank, 1, stopped, 2) == ["finished"]
    assert read_losses(stopped) == pytest.approx(read_losses(whole), rel=1e-5)
