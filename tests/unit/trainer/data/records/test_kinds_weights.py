"""Sources that count more than others: which samples are whose, how long an epoch is, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.order import Part
from runyard_trainer.data.records.base import Samples
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.preparation.first_rows import SAMPLED_ROWS
from runyard_trainer.preparation.preview import preview_run

from tests.places import Place

WORDS = ("alpha", "beta", "gamma")
COUNTS = (300, 0, 90)
"""Records of each of three sources; the second has nothing but an empty one."""


@pytest.fixture
def place(place: Place) -> Place:
    place.put_model()
    return place


def put_sources(place: Place, *weights: float, is_sft: bool = False) -> list[dict[str, Any]]:
    sources = []
    for word, count, weight in zip(WORDS, COUNTS, weights, strict=True):
        texts = [f"{word} number {i} is {i * i}" for i in range(count)]
        rows = [{"prompt": "say", "completion": text} if is_sft else {"text": text} for text in texts]
        empty = {"prompt": " ", "completion": " "} if is_sft else {"text": " "}
        (place.base / f"{word}.jsonl").put("".join(json.dumps(row) + "\n" for row in [*rows, empty]).encode())
        sources.append({"uri": f"{place.base}/{word}.jsonl", "weight": weight})
    return sources


def recipe_of(place: Place, sources: list[dict[str, Any]], **sections: Any) -> Recipe:
    data = {"train": sources, "validation": {"fraction": 0}, "invalidRows": "Drop"}
    return place.recipe(model={"uri": f"{place.base}/model"}, data=data, **sections)


def read_back(place: Place, recipe: Recipe) -> tuple[Samples, tuple[Part, ...], list[str]]:
    """The samples of a prepared run, its parts, and the text of each sample."""
    from tokenizers import Tokenizer

    dataset = place.dataset()
    tokenizer = Tokenizer.from_str((dataset.location / "tokenizer" / "tokenizer.json").get().data.decode())
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    texts = [tokenizer.decode(samples[i]["input_ids"].tolist()) for i in range(len(samples))]
    return samples, parts_of(recipe, dataset, samples), texts


def test_a_sequence_is_of_the_source_that_it_begins_with_and_an_epoch_has_each_as_often_as_it_weighs(
    place: Place,
) -> None:
    recipe = recipe_of(place, put_sources(place, 0.5, 7, 3))
    report = place.prepare(recipe)
    samples, parts, texts = read_back(place, recipe)
    assert [part.weight for part in parts] == [0.5, 7, 3]
    assert sum(part.size for part in parts) == len(samples)
    assert parts[1].size == 0
    first_of_last = parts[0].size
    assert all("alpha" in text and "gamma" not in text for text in texts[: first_of_last - 1])
    assert not texts[first_of_last - 1].startswith("gamma"), "what is left of the first source comes first"
    assert all("gamma" in text and "alpha" not in text for text in texts[first_of_last:])
    samples_per_epoch = 0.5 * parts[0].size + 3 * parts[2].size
    assert report.resolved is not None
    assert int(report.resolved["totalSteps"]) == -(-int(2 * samples_per_epoch) // 4)


def test_no_sequence_has_answers_of_two_sources_with_weights(place: Place) -> None:
    training = {"epochs": 1, "sequenceLength": 64, "batchSequences": 4}
    recipe = recipe_of(place, put_sources(place, 1, 1, 2, is_sft=True), objective="sft", training=training)
    place.prepare(recipe)
    samples, parts, texts = read_back(place, recipe)
    assert sum(part.size for part in parts) == len(samples)
    first_of_last = parts[0].size + parts[1].size
    assert all("alpha" in text and "gamma" not in text for text in texts[:first_of_last])
    assert all("gamma" in text and "alpha" not in text for text in texts[first_of_last:])


def test_other_weights_need_no_other_preparation(place: Place) -> None:
    manifests = set()
    for weights in ((1, 1, 1), (2, 1, 0.25)):
        report = place.prepare(recipe_of(place, put_sources(place, *weights)))
        assert report.data is not None
        manifests.add(report.data.manifest)
    assert len(manifests) == 1


def test_the_same_files_as_other_sources_are_prepared_anew(place: Place) -> None:
    put_sources(place, 1, 1, 1)
    (place.base / "both" / "a.jsonl").put((place.base / "alpha.jsonl").get().data)
    (place.base / "both" / "b.jsonl").put((place.base / "gamma.jsonl").get().data)
    place.prepare(recipe_of(place, [{"uri": f"{place.base}/both/"}]))
    apart = [{"uri": f"{place.base}/both/a.jsonl"}, {"uri": f"{place.base}/both/b.jsonl", "weight": 3}]
    recipe = recipe_of(place, apart)
    place.prepare(recipe)
    _, parts, _ = read_back(place, recipe)
    assert [part.weight for part in parts] == [1, 3]
    assert all(part.size > 0 for part in parts)


def test_the_preview_reckons_with_weights(place: Place) -> None:
    recipe = recipe_of(place, put_sources(place, 0.5, 1, 4))
    assert COUNTS[0] > SAMPLED_ROWS > COUNTS[2]
    report = place.prepare(recipe)
    assert report.data is not None
    assert report.data.estimate is not None
    assert preview_run(recipe).estimate.steps == pytest.approx(report.data.estimate.steps, rel=0.1)


REFUSED = {
    "none": ([{"weight": 0}, {}], "greater than 0"),
    "a negative one": ([{"weight": -1}, {}], "greater than 0"),
    "no number": ([{"weight": float("nan")}, {}], "data.train.0.weight"),
    "too much": ([{"weight": 101}, {}], "less than or equal to 100"),
    "of one source": (
        [{"weight": 2}],
        r"data.train\[0\].weight has no other source .* training.epochs",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_weight_that_makes_no_sense_is_refused(place: Place, what: str) -> None:
    sources, message = REFUSED[what]
    with pytest.raises(ValidationError, match=message):
        recipe_of(place, [{"uri": f"{place.base}/{i}", **source} for i, source in enumerate(sources)])


@pytest.mark.parametrize("field", ["replay", "validation"])
def test_only_what_is_trained_on_has_a_weight(place: Place, field: str) -> None:
    weighed = {"sources": [{"uri": f"{place.base}/b", "weight": 2}]}
    section = {"fraction": 0.1, **weighed} if field == "replay" else weighed
    with pytest.raises(ValidationError, match=f"data.{field}.sources.0.weight"):
        place.recipe(data={"train": [{"uri": f"{place.base}/a"}], field: section})
