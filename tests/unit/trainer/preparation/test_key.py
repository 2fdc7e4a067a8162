"""What the key of prepared data depends on: the marks in the contract say it, and the key keeps to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.base import Tokens, iterate_leaves
from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.sources.listing import SourceFile
from runyard_trainer.preparation.key import compute_key
from runyard_trainer.preparation.record_streams import Files
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.folder import FolderStore

MARKED = {
    path: [mark for mark in field.metadata if isinstance(mark, Tokens)]
    for path, field in iterate_leaves(Recipe)
    if path.startswith(("data.", "model."))
}

Sections = dict[str, Any]

TRAINED = {"scratch": {"config": {"model_type": "llama"}, "tokenizer": {"train": {"vocabSize": 300}}}}
TRAIN = [{"uri": "file:///text/a.jsonl"}]
REPLAY = [{"uri": "file:///old/a.jsonl"}]
SELECT = {"method": "novelty-diversity", "fraction": 0.5, "reference": [{"uri": "file:///known/a.jsonl"}]}


def recipe_of(**sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": TRAINED,
            "data": {"train": TRAIN},
            "training": {"steps": 1, "sequenceLength": 64},
            "output": {"uri": "file:///out"},
            **sections,
        }
    )


def files_of(recipe: Recipe) -> Files:
    """A file for each source, as they would be listed."""
    data, select = recipe.data, recipe.data.select
    listed = {
        "train": data.train,
        "replay": data.replay.sources if data.replay is not None else None,
        "validation": data.validation.sources,
        "general": recipe.evaluation.general,
        **(select.compared if select is not None else {}),
    }
    return {stream: [file_of(*each) for each in enumerate(sources)] for stream, sources in listed.items() if sources}


def file_of(number: int, source: DataSource) -> SourceFile:
    location = Location(FolderStore("data.train"), source.uri.removeprefix("file:///"))
    return SourceFile(location, f"etag-{number}", 10 + number, "jsonl", source.columns, number)


def key_of(**sections: Any) -> str:
    recipe = recipe_of(**sections)
    return compute_key(recipe, files_of(recipe))


def data(**fields: Any) -> Sections:
    return {"data": {"train": TRAIN, **fields}}


def trained(**tokenizer: Any) -> Sections:
    return {"model": {"scratch": {**TRAINED["scratch"], "tokenizer": {"train": {"vocabSize": 300, **tokenizer}}}}}


def encoder(tokenizer: str = "bpe", **config: Any) -> Sections:
    scratch = {"config": {"model_type": "bert", **config}, "tokenizer": {"train": {"type": tokenizer}}}
    return {"objective": "masked-lm", "model": {"scratch": scratch}}


RECIPES: dict[str, Sections] = {
    "the smallest": {},
    "an encoder": encoder(type_vocab_size=2),
    "sentences": {**encoder(), "objective": "masked-lm-nsp"},
    "screened": data(deduplicate="near", decontaminate={"ngram": 8}, invalidRows="Drop"),
    "held out by itself": data(validation={"sources": REPLAY}),
    "replayed": data(replay={"fraction": 0.1, "sources": REPLAY}),
    "chosen": data(select=SELECT),
    "drawn": {**data(select={**SELECT, "sampling": "soft", "noiseClip": 0.2}), "training": {"steps": 1, "seed": 7}},
    "of other columns": data(train=[{**TRAIN[0], "columns": {"text": "body"}}]),
}
RECORDED: dict[str, str] = {
    "the smallest": "4b1203fca1bbc624034b563eec552ba0",
    "an encoder": "bda73fc32f05f217473d81fda0c50c3b",
    "sentences": "c2ad9dd6ed41e8a166c53fecf7db76ce",
    "screened": "153a7533dceb9521433f5ea431c06c9b",
    "held out by itself": "4c6e2a9b17985b60b9edf11a5af48c5a",
    "replayed": "b97bc561338190d132a7142a276e85fc",
    "chosen": "a945fbfc038cd9b0b2bada237d40ae84",
    "drawn": "79510a5be13f055ff46db2c1b96aa24f",
    "of other columns": "dddddcd6a15f5bafe3fa49219519bc04",
}
"""By name in `RECIPES`, as version 0.1.0 computed them."""


@pytest.mark.parametrize("what", RECIPES)
def test_the_key_is_what_it_was_so_that_shards_of_older_versions_are_found(what: str) -> None:
    assert key_of(**RECIPES[what]) == RECORDED[what]


def test_a_tokenizer_that_is_there_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    model = {"uri": f"file://{tmp_path}"}
    assert key_of(model=model) == "138685ce866bbedbb20d8b3f94e0c475"
    assert key_of(model={**model, "extendVocabulary": {"tokens": 9}}) == "60568537caa0edc7250481702462ed18"
    (tmp_path / "tokenizer.json").write_text("{ }")
    assert key_of(model=model) != "138685ce866bbedbb20d8b3f94e0c475"


@pytest.mark.parametrize("path", MARKED)
def test_a_field_of_data_or_model_says_how_tokens_depend_on_it(path: str) -> None:
    assert len(MARKED[path]) == 1, f"{path}: mark it with one of contract.base.Tokens"


CHANGES: dict[str, tuple[Sections, Sections]] = {
    "data.deduplicate": (data(deduplicate="exact"), data(deduplicate="near")),
    "data.invalidRows": (data(invalidRows="Fail"), data(invalidRows="Drop")),
    "data.decontaminate.ngram": (data(decontaminate={"ngram": 8}), data(decontaminate={"ngram": 9})),
    "data.validation.fraction": (data(), data(validation={"fraction": 0.1})),
    "data.select.method": (
        data(select={**SELECT, "method": "combined", "target": REPLAY}),
        data(select={"method": "similarity", "fraction": 0.5, "target": REPLAY}),
    ),
    "data.select.fraction": (data(select=SELECT), data(select={**SELECT, "fraction": 0.4})),
    "data.select.sampling": (data(select=SELECT), data(select={**SELECT, "sampling": "soft"})),
    "data.select.noiseClip": (data(select=SELECT), data(select={**SELECT, "noiseClip": 0.2})),
    "data.train[].weight": (data(train=[*TRAIN, *REPLAY]), data(train=[*TRAIN, {**REPLAY[0], "weight": 2}])),
    "data.replay.fraction": (
        data(replay={"fraction": 0.1, "sources": REPLAY}),
        data(replay={"fraction": 0.2, "sources": REPLAY}),
    ),
    "model.scratch.config": (encoder(type_vocab_size=1), encoder(type_vocab_size=2)),
    "model.scratch.tokenizer.train.type": (encoder(), encoder(tokenizer="wordpiece")),
    "model.scratch.tokenizer.train.vocabSize": (trained(vocabSize=300), trained(vocabSize=400)),
}  # fmt: skip


def test_every_field_that_is_not_read_as_files_is_changed_here() -> None:
    of_models_read = {
        "data.replay.source",
        "model.digest",
        "model.extendVocabulary.tokens",
        "model.run.checkpoint",
        "model.run.name",
        "model.step",
    }
    assert {path for path, marks in MARKED.items() if marks != [Tokens.BY_FILES]} == {*CHANGES, *of_models_read}


@pytest.mark.parametrize("path", CHANGES)
def test_the_key_changes_with_a_field_that_tokens_depend_on_and_with_no_other(path: str) -> None:
    before, after = CHANGES[path]
    assert (key_of(**before) != key_of(**after)) == (MARKED[path] != [Tokens.NOT])


def test_the_key_changes_with_the_fields_of_a_model_that_is_read_as_they_say(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    model = {"uri": f"file://{tmp_path}"}
    key = key_of(model=model)
    assert key_of(model={**model, "digest": f"sha256:{'0' * 64}"}) == key
    assert key_of(model={**model, "step": 5}) == key
    assert key_of(model=model, **data(replay={"fraction": 0.1, "source": "self"})) == key
    extended = [key_of(model={**model, "extendVocabulary": {"tokens": tokens}}) for tokens in (8, 9)]
    assert len({key, *extended}) == 3
