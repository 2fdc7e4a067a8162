"""A prepared run for tests of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare

from tests.ranks import exports


@pytest.fixture(scope="module")
def build_prepared(tmp_path_factory: pytest.TempPathFactory) -> exports.BuildPrepared:
    """Prepare a tiny run of a configuration in a folder of its own."""

    def build(config: dict[str, Any]) -> tuple[Recipe, Path]:
        folder = tmp_path_factory.mktemp("run")
        exports.write_corpus(folder)
        recipe = exports.build_recipe(folder, config)
        prepare(recipe, exports.build_context(recipe, folder, World()))
        return recipe, folder

    return build
