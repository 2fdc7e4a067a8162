"""`data.select` through `prepare` and `preview`: what is counted, what stays as it was, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import read_resolved
from runyard_trainer.data.filters.fates import LeftOutReason
from runyard_trainer.data.filters.selection import choose_documents
from runyard_trainer.preparation import fates
from runyard_trainer.preparation.preview import preview_run

from tests.places import Place, decode_all
from tests.unit.trainer.data.filters.made_corpus import corpus, documents


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return fill(Place.in_folder(tmp_path))


def fill(place: Place) -> Place:
    """The made corpus: 1,000 documents, ten more that are no use, and the texts to compare with."""
    place.put_model()
    sources = {
        "domain": [*(text for _, text in documents()), *[" "] * 4, *corpus()["other"][:6]],
        "task": [*corpus()["target"], " "],
        "known": corpus()["known"],
    }
    for name, texts in sources.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (place.base / f"{name}.jsonl").put(lines.encode())
    return place


def recipe_of(
    place: Place, select: dict[str, Any] | None, data: dict[str, Any] | None = None, **sections: Any
) -> Recipe:
    made = {"train": [{"uri": f"{place.base}/domain.jsonl"}], "validation": {"fraction": 0.1}} | (data or {})
    if select is not None:
        made["select"] = {"fraction": 0.1} | select
    return place.recipe(**{"model": {"uri": f"{place.base}/model"}, "data": made} | sections)


def target_of(place: Place) -> list[dict[str, str]]:
    return [{"uri": f"{place.base}/task.jsonl"}]


def known_of(place: Place) -> list[dict[str, str]]:
    return [{"uri": f"{place.base}/known.jsonl"}]


@pytest.mark.parametrize("store", ["folder", "s3"])
def test_a_tenth_is_prepared_and_the_rest_is_counted_by_reason(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if store == "s3":
        place = fill(Place.on_s3(request.getfixturevalue("s3"), tmp_path))
    else:
        place = request.getfixturevalue("folder")
    select = {"method": "combined", "target": target_of(place), "reference": known_of(place)}
    report = place.prepare(recipe_of(place, select))
    streams = place.dataset().info.streams
    held_out = streams["validation"].documents
    num_candidates = 1000 - held_out
    num_noise, num_chosen = round(num_candidates * 0.1), round(num_candidates * 0.1)
    want = {
        "duplicate": 6 - streams["validation"].left_out.get("duplicate", 0),
        "empty": 4,
        "noise": num_noise,
        "notSelected": num_candidates - num_noise - num_chosen,
    }
    assert streams["train"].left_out == want
    assert streams["train"].documents == num_chosen
    assert set(streams) == {"train", "validation"}
    assert report.resolved is not None
    assert report.resolved["noiseClip"] == "0.1"
    assert report.data is not None
    assert (report.data.documents, report.data.dropped) == (num_chosen, sum(want.values()))
    assert f"{want['notSelected']:,} not chosen by data.select" in report.message
    assert f"{num_noise:,} left out as noise by data.select" in report.message
    shown = json.loads((place.base / "out" / "preview.json").get().data)
    assert shown["streams"]["train"]["leftOut"] == want
    reasons = {row["leftOut"].partition(",") for row in shown["rows"] if "data.select" in row["leftOut"]}
    assert {words for words, *_ in reasons} <= {"not chosen by data.select", "left out as noise by data.select"}
    assert {behind for *_, behind in reasons} == {" were these first rows all there is"}, "they are not"

    trained = decode_all(place.dataset(), "train")
    kinds = {text: kind for kind, text in documents()}
    found = [kinds.get(text, "other") for text in trained]
    assert found.count("noise") == 0
    assert found.count("task") > 15
    order = [text for _, text in documents()]
    assert trained == sorted(trained, key=order.index), "what is kept stays in its order"


def test_held_out_records_are_those_without_a_choice_and_are_not_counted_in(folder: Place) -> None:
    folder.prepare(recipe_of(folder, None))
    everything = {stream: decode_all(folder.dataset(), stream) for stream in ("train", "validation")}
    folder.prepare(recipe_of(folder, {"method": "similarity", "target": target_of(folder)}))
    assert decode_all(folder.dataset(), "validation") == everything["validation"]
    chosen = decode_all(folder.dataset(), "train")
    assert set(chosen) < set(everything["train"])
    assert len(chosen) == round(len(everything["train"]) * 0.1)


def test_replayed_text_is_what_the_model_knows_and_none_of_it_is_left_out(folder: Place) -> None:
    replay = {"replay": {"fraction": 0.1, "sources": known_of(folder)}}
    folder.prepare(recipe_of(folder, {"method": "novelty-diversity"}, replay))
    implied = decode_all(folder.dataset(), "train")
    assert folder.dataset().info.streams["replay"].documents == len(set(corpus()["known"]))
    folder.prepare(recipe_of(folder, {"method": "novelty-diversity", "reference": known_of(folder)}))
    assert decode_all(folder.dataset(), "train") == implied


def test_only_what_changes_the_choice_is_prepared_anew(folder: Place) -> None:
    def prepared(seed: int = 0, **select: Any) -> str:
        settings = {"method": "similarity", "target": target_of(folder)} | select
        training = {"epochs": 1, "sequenceLength": 32, "batchSequences": 4, "seed": seed}
        folder.prepare(recipe_of(folder, settings, training=training))
        return read_resolved(folder.base / "out").dataset

    hard, soft = prepared(), prepared(sampling="soft")
    assert prepared(seed=1) == hard
    assert len({hard, soft, prepared(fraction=0.2), prepared(seed=1, sampling="soft")}) == 4
    (folder.base / "task.jsonl").put(json.dumps({"text": corpus()["target"][0]}).encode())
    assert prepared() != hard


def test_two_preparations_choose_the_same(folder: Place) -> None:
    select = {"method": "combined", "target": target_of(folder), "reference": known_of(folder), "sampling": "soft"}
    folder.prepare(recipe_of(folder, select))
    location = folder.dataset().location
    first = (location / "dataset.json").get().data
    (location / "dataset.json").delete()
    folder.prepare(recipe_of(folder, select))
    assert (location / "dataset.json").get().data == first
    assert [path for path in folder.scratch.rglob("*") if path.is_file() and "cache" not in path.parts] == []


def test_text_that_grows_while_it_is_chosen_from_is_told(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = folder.base / "domain.jsonl"

    def grow(*args: Any) -> list[LeftOutReason | None]:
        verdicts = choose_documents(*args)
        domain.put(domain.get().data + b'{"text": "one more"}\n{"text": "and another one"}\n')
        return verdicts

    monkeypatch.setattr(fates, "choose_documents", grow)
    recipe = recipe_of(folder, {"method": "similarity", "target": target_of(folder)}, {"validation": {"fraction": 0}})
    with pytest.raises(UserError, match=r"^data.train: its files have changed while data.select chose from them"):
        folder.prepare(recipe)


def test_tokenized_documents_are_chosen_as_their_text_is(folder: Place) -> None:
    select = {"method": "similarity", "target": target_of(folder)}
    folder.prepare(recipe_of(folder, select))
    chosen = decode_all(folder.dataset(), "train")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str((folder.base / "model" / "tokenizer.json").get().data.decode())
    rows = [{"input_ids": tokenizer.encode(text).ids} for _, text in documents()]
    (folder.base / "ids.jsonl").put("".join(json.dumps(row) + "\n" for row in rows).encode())
    no_split = {"validation": {"fraction": 0}}
    folder.prepare(recipe_of(folder, select, {"train": [{"uri": f"{folder.base}/ids.jsonl"}], **no_split}))
    from_ids = decode_all(folder.dataset(), "train")
    folder.prepare(recipe_of(folder, select, no_split))
    assert decode_all(folder.dataset(), "train") == from_ids
    assert len(set(chosen) & set(from_ids)) > 50


@pytest.mark.parametrize("objective", ["masked-lm", "masked-lm-nsp"])
def test_encoders_and_their_new_tokenizers_choose_too(folder: Place, objective: str) -> None:
    config = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    tokenizer = {"train": {"type": "wordpiece", "vocabSize": 300}}
    model = {"scratch": {"config": {**config, "intermediate_size": 16}, "tokenizer": tokenizer}}
    select = {"method": "combined", "target": target_of(folder), "reference": known_of(folder)}
    folder.prepare(recipe_of(folder, select, model=model, objective=objective))
    left_out = folder.dataset().info.streams["train"].left_out
    assert left_out["noise"] > 80
    assert left_out["notSelected"] > 600


def test_a_preview_shows_counts_and_rows_that_are_not_chosen(folder: Place) -> None:
    select = {"method": "combined", "target": target_of(folder), "reference": known_of(folder)}
    found = preview_run(recipe_of(folder, select, {"validation": {"fraction": 0}}))
    assert found.is_sample
    assert found.streams["train"].documents == 20
    assert found.streams["train"].left_out == {"noise": 20, "notSelected": 160}
    assert {row.left_out for row in found.rows} == {
        "",
        "not chosen by data.select, were these first rows all there is",
        "left out as noise by data.select, were these first rows all there is",
    }
    assert {row.stream for row in found.rows} == {"train"}


def test_text_to_compare_with_that_is_not_there_or_empty_is_told(folder: Place) -> None:
    select = {"method": "similarity", "target": [{"uri": f"{folder.base}/nothing/"}]}
    with pytest.raises(UserError, match=r"^data.select.target\[0\].uri: nothing lies at"):
        folder.prepare(recipe_of(folder, select))
    novelty = {"method": "novelty-diversity", "reference": [*known_of(folder), {"uri": f"{folder.base}/nothing/"}]}
    with pytest.raises(UserError, match=r"^data.select.reference\[1\].uri: nothing lies at"):
        folder.prepare(recipe_of(folder, novelty))
    (folder.base / "blank.txt").put(b"  \n")
    with pytest.raises(UserError, match=r"^data.select.target has no text to compare data.train with: name some$"):
        folder.prepare(recipe_of(folder, {**select, "target": [{"uri": f"{folder.base}/blank.txt"}]}))
    (folder.base / "labels.jsonl").put(b'{"sentence": "it rose", "label": 1}\n')
    with pytest.raises(UserError, match=r"labels.jsonl:1: no field 'text', found label, sentence.*columns.text"):
        folder.prepare(recipe_of(folder, {**select, "target": [{"uri": f"{folder.base}/labels.jsonl"}]}))
    output = {"uri": f"{folder.base}/tasks/out"}
    with pytest.raises(UserError, match=r"lies within data.select.target\[0\].uri"):
        folder.prepare(recipe_of(folder, {**select, "target": [{"uri": f"{folder.base}/tasks/"}]}, output=output))


SOURCE = [{"uri": "s3://c/x"}]
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "perplexity alone": ({"method": "perplexity"}, {}, "perplexity picks noise: .*60 noise.* choose novelty-diversity"),
    "an unknown method": ({"method": "best"}, {}, "data.select.method"),
    "no method": ({}, {}, "data.select.method"),
    "similarity to nothing": ({"method": "similarity"}, {}, "similarity or combined needs data.select.target"),
    "all three of two": ({"method": "combined", "reference": SOURCE}, {}, "combined needs data.select.target"),
    "novelty to a model that nothing is known of": (
        {"method": "novelty-diversity"},
        {},
        "new to the model: .* data.select.reference, or data.replay.sources",
    ),
    "novelty to what the model itself writes": (
        {"method": "novelty-diversity"},
        {"data": {"replay": {"fraction": 0.1, "source": "self"}}},
        "data.select.reference, or data.replay.sources",
    ),
    "a task for novelty": (
        {"method": "novelty-diversity", "reference": SOURCE, "target": SOURCE},
        {},
        "data.select.target has no use for method novelty-diversity",
    ),
    "a reference for similarity": (
        {"method": "similarity", "reference": SOURCE, "target": SOURCE},
        {},
        "data.select.reference has no use for method similarity",
    ),
    "a clip for similarity": (
        {"method": "similarity", "target": SOURCE, "noiseClip": 0.1},
        {},
        "data.select.noiseClip has no use for method similarity",
    ),
    "nothing": ({"method": "similarity", "target": SOURCE, "fraction": 0}, {}, "greater than 0"),
    "everything": ({"method": "similarity", "target": SOURCE, "fraction": 1}, {}, "less than 1"),
    "more than everything": (
        {"method": "novelty-diversity", "reference": SOURCE, "fraction": 0.95},
        {},
        r"data.select.fraction and noiseClip \(0.1 where absent\) are more than all",
    ),
    "labelled text": (
        {"method": "similarity", "target": SOURCE},
        {"objective": "classification"},
        "among texts without labels, and those of this objective have some",
    ),
    "conversations that the model knows": (
        {"method": "novelty-diversity", "reference": [{"uri": "s3://c/x", "format": "alpaca"}]},
        {},
        "data.select.reference is read as text, which has no records",
    ),
    "conversations to compare with": (
        {"method": "similarity", "target": [{"uri": "s3://c/x", "format": "messages"}]},
        {},
        "data.select.target is read as text, which has no records",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_choice_that_makes_no_sense_is_refused(folder: Place, what: str) -> None:
    select, sections, message = REFUSED[what]
    with pytest.raises(ValidationError, match=message):
        recipe_of(folder, select, sections.get("data"), **{k: v for k, v in sections.items() if k != "data"})
