"""Fields by path: what a model holds, which fields are URIs, and how mistakes are told."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from runyard_trainer.contract.base import (
    URI_PATTERN,
    UriUse,
    describe_errors,
    dump_tokens_by_value,
    format_path,
    iterate_leaves,
    iterate_models,
    iterate_values,
)
from runyard_trainer.contract.data import Data
from runyard_trainer.contract.recipe import Recipe

KEPT_APART_OTHERWISE = {
    "output.uri",
    "model.uri",
    "model.scratch.tokenizer.uri",
}
"""The URIs that are no text which a run reads: a new one is marked, or listed here."""


def test_every_uri_is_marked_as_an_input_or_is_known_not_to_be_one() -> None:
    uris = {path for path, field in iterate_leaves(Recipe) if URI_PATTERN in repr((field.annotation, field.metadata))}
    inputs = {path for path, field in iterate_leaves(Recipe) if UriUse.INPUT in field.metadata}
    assert uris - inputs == KEPT_APART_OTHERWISE
    assert inputs <= uris
    assert len(inputs) == 9


def test_models_are_found_through_lists_and_where_they_may_be_absent() -> None:
    paths = [path for path, _ in iterate_models(Recipe)]
    assert paths[0] == ""
    assert {"model.scratch.tokenizer.train", "data.select.target[].columns", "evaluation.tasks[].shots"} <= set(paths)
    assert len(paths) == len(set(paths))


RECIPE: dict[str, Any] = {
    "model": {"uri": "s3://m/m"},
    "data": {
        "train": [{"uri": "s3://c/a"}, {"uri": "s3://c/b"}],
        "validation": {"sources": [{"uri": "s3://c/v"}]},
        "replay": {"fraction": 0.1, "sources": [{"uri": "s3://c/r"}]},
        "select": {"method": "combined", "fraction": 0.1, "target": [{"uri": "s3://c/t"}]},
    },
    "evaluation": {
        "general": [{"uri": "s3://c/g"}],
        "tasks": [
            {"name": "a", "preset": "fiqa-sentiment", "test": {"uri": "s3://q/a"}, "shots": {"uri": "s3://q/s"}},
        ],
        "judge": {"endpoint": "http://j/v1", "model": "j", "prompts": {"uri": "s3://q/p"}},
    },
    "output": {"uri": "s3://o/o"},
}


def test_the_inputs_of_a_recipe_are_found_with_the_paths_that_a_person_writes() -> None:
    assert dict(iterate_values(Recipe.model_validate(RECIPE), UriUse.INPUT)) == {
        "data.train[0].uri": "s3://c/a",
        "data.train[1].uri": "s3://c/b",
        "data.validation.sources[0].uri": "s3://c/v",
        "data.replay.sources[0].uri": "s3://c/r",
        "data.select.target[0].uri": "s3://c/t",
        "evaluation.general[0].uri": "s3://c/g",
        "evaluation.tasks[0].test.uri": "s3://q/a",
        "evaluation.tasks[0].shots.uri": "s3://q/s",
        "evaluation.judge.prompts.uri": "s3://q/p",
    }


def test_what_tokens_depend_on_by_value_keeps_what_is_absent_and_leaves_out_models_without_any() -> None:
    data = Data.model_validate({"train": [{"uri": "s3://c/a"}], "decontaminate": {"ngram": 8}})
    want = {"deduplicate": "exact", "decontaminate": {"ngram": 8}, "select": None, "invalid_rows": "Fail"}
    assert dump_tokens_by_value(data) == want


@pytest.mark.parametrize(
    ("location", "want"), [((), ""), (("data", "train", 0, "uri"), "data.train[0].uri"), (("spec",), "spec")]
)
def test_a_path_is_written_as_a_person_writes_it(location: tuple[int | str, ...], want: str) -> None:
    assert format_path(location) == want


def test_mistakes_are_told_with_their_paths_below_the_root() -> None:
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate({**RECIPE, "preference": {"beta": 1}})
    assert describe_errors(refused.value) == ["preference.beta belongs to objective preference: remove it"]
    assert describe_errors(refused.value, root="spec")[0].startswith("spec: preference.beta belongs to")
    with pytest.raises(ValidationError) as refused:
        Recipe.model_validate({**RECIPE, "training": {"steps": 1, "epochs": 1}, "objective": 3})
    mistakes = describe_errors(refused.value, root="spec")
    assert mistakes[0].startswith("spec.objective: Input should be")
    assert mistakes[1] == "spec.training: training needs exactly one of epochs, tokens, steps"
