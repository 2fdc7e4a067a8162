"""One row for each objective: all that follows from a row exists, and nothing else knows an objective's name."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
import transformers
from peft import TaskType
from runyard import api
from runyard_trainer import contract
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
    OBJECTIVES,
    ObjectiveName,
    resolve_objective,
)
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.kinds import kind_of_objective
from runyard_trainer.export.comparison import find_metric
from runyard_trainer.models.config import list_architectures
from runyard_trainer.objectives.build import name_module

PACKAGES = [Path(str(package.__file__)).parents[1] for package in (contract, api)]
TABLE = "runyard_trainer/contract/objectives.py"
ALLOWED = {
    "runyard_trainer/contract/recipe.py": "the default of the field, and messages of the API",
    "runyard_trainer/contract/rules.py": "rules across fields, and their messages",
    "runyard_trainer/data/records/text.py": "a message advises the objective that learns answers",
    "runyard_trainer/data/records/unread.py": "messages advise the objective that learns from pairs",
}
OTHER_MEANINGS = {
    "runyard_trainer/contract/evaluation.py": "classification is a type of task, too",
    "runyard_trainer/evaluation/tasks/build.py": "the same",
    "runyard_trainer/evaluation/tasks/kinds.py": "the same",
    "runyard_trainer/evaluation/tasks/presets.py": "the same",
    "runyard/decide/manifests.py": "preference is a field of a Pod's affinity",
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_that_follows_from_a_row_exists(name: ObjectiveName) -> None:
    traits = OBJECTIVES[name]
    assert kind_of_objective(name).definition
    assert callable(import_module(name_module(name)).build_objective)
    assert "bert" in list_architectures(name)
    assert hasattr(transformers, traits.auto_class)
    assert traits.peft_task_type is None or traits.peft_task_type in TaskType.__members__
    assert all((traits.lacks, traits.pipeline_tag, traits.loss_unit, traits.nature))
    assert all(find_metric(metric) == words for metric, words in traits.metrics.items()), "one name, one title"


def test_the_table_has_a_row_for_each_name_that_a_recipe_may_give() -> None:
    assert [*OBJECTIVES] == [*get_args(ObjectiveName)]
    assert Recipe.model_fields["objective"].annotation == ObjectiveName


def test_traits_agree_with_each_other() -> None:
    assert OBJECTIVES.keys() - LANGUAGE_OBJECTIVES - NEXT_TOKEN_OBJECTIVES == HEAD_OBJECTIVES
    assert MASKED_OBJECTIVES == LANGUAGE_OBJECTIVES - NEXT_TOKEN_OBJECTIVES
    assert EXTENDABLE_OBJECTIVES <= NEXT_TOKEN_OBJECTIVES


def test_general_text_is_plain_text_to_a_model_that_is_fine_tuned() -> None:
    assert {name: resolve_objective(name, "general") for name in OBJECTIVES} == {
        name: name if name in LANGUAGE_OBJECTIVES else "causal-lm" for name in OBJECTIVES
    }
    assert all(resolve_objective(name, "validation") == name for name in OBJECTIVES)


def test_nothing_else_knows_the_name_of_an_objective() -> None:
    found = {
        str(path.relative_to(package.parent)): names
        for package in PACKAGES
        for path in package.rglob("*")
        if path.suffix in (".py", ".j2") and (names := sorted(set(find_names(path)) - own_names(path)))
    }
    assert found.pop(TABLE)
    assert found.keys() == ALLOWED.keys() | OTHER_MEANINGS.keys(), "read a trait instead, or remove an exception"


def own_names(path: Path) -> set[str]:
    """Return the objectives whose record kind or code a module is."""
    modules = {name: {f"records/{traits.records}", name_module(name)} for name, traits in OBJECTIVES.items()}
    stems = {f"{path.parent.name}/{path.stem}", f"runyard_trainer.{path.parent.name}.{path.stem}"}
    return {name for name, both in modules.items() if both & stems}


def find_names(path: Path) -> Iterator[str]:
    """Yield the objectives named in a file's strings: alone, behind "objective", or anywhere if with a hyphen."""
    if path.suffix == ".py":
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        ]
    else:
        texts = [path.read_text()]
    for name in OBJECTIVES:
        inside = rf"(?<![\w-]){name}(?![\w-])" if "-" in name else rf"""objectives? ([!=]= ['"])?{name}\b"""
        if any(text == name or re.search(inside, text) for text in texts):
            yield name
