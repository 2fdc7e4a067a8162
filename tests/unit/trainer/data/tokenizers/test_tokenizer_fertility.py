"""How finely a tokenizer cuts held-out text, as prepare tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runyard_trainer.contract.reports import Fertility
from runyard_trainer.data.tokenizers.tokenizer import FertilityCounter, train_tokenizer
from runyard_trainer.preparation.preview import preview_run

from tests.places import Place


@pytest.fixture
def place(place: Place) -> Place:
    place.scratch.mkdir()
    place.put_text()
    return place


def test_tokens_are_counted_by_word_and_bytes_by_token_without_special_ones(tmp_path: Path) -> None:
    counter = FertilityCounter(train_tokenizer(["ab"], 257, tmp_path))  # a token a byte
    assert counter.summarize() is None
    counter.add(["ab cd", "ä\n\nef"])
    assert counter.summarize() == Fertility(tokens_per_word=11 / 4, bytes_per_token=1.0)


def test_prepare_tells_what_the_domain_and_the_general_text_cost_the_tokenizer(place: Place) -> None:
    """The tokenizer is trained on the domain, so its words cost less."""
    (place.base / "general.jsonl").put(json.dumps({"text": "Völlig andere Wörter kosten mehr."}).encode())
    recipe = place.recipe(evaluation={"general": [{"uri": f"{place.base}/general.jsonl"}]})
    told = place.prepare(recipe).data
    assert told is not None
    assert told.domain_fertility is not None
    assert told.general_fertility is not None
    assert 1 <= told.domain_fertility.tokens_per_word < told.general_fertility.tokens_per_word
    assert told.domain_fertility.bytes_per_token > told.general_fertility.bytes_per_token >= 1
    streams = place.dataset().info.streams
    assert streams["validation"].fertility == told.domain_fertility
    assert streams["train"].fertility is None
    shown = json.loads((place.base / "out" / "preview.json").get().data)["streams"]
    assert shown["general"]["fertility"] == told.general_fertility.model_dump(by_alias=True, exclude_none=True)
    assert preview_run(recipe).streams["validation"].fertility == told.domain_fertility


def test_where_nothing_is_held_out_nothing_is_told(place: Place) -> None:
    told = place.prepare(place.recipe(data={"train": [{"uri": f"{place.base}/text/"}], "validation": {"fraction": 0}}))
    assert told.data is not None
    assert told.data.domain_fertility is None
