"""Every row has one fate, whoever reads it and whatever is read first; the writer and the preview count the same."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import Storage
from runyard_trainer.data.filters.fates import Fate
from runyard_trainer.data.filters.screening import is_held_out
from runyard_trainer.preparation.fates import DecidedStreams
from runyard_trainer.preparation.preview import preview_run
from runyard_trainer.preparation.record_streams import FileStreams, list_files
from runyard_trainer.storage.open import open_store

from tests.places import Place

FILLERS = [f"sentence number {i} is about {i * i} birds and {i % 7} dogs" for i in range(60)]
"""Rows of `data.train` that are always there: so few of them are wrong, and some are left to train on."""
SHARED = "the old dog sees a small red bird in the tree behind the house"
TEXTS = [
    "",
    "  ",
    "a",
    "A",
    "b",
    FILLERS[0],
    SHARED,
    f"{SHARED} again",
    f"before it {SHARED}",
    "twelve words are not in here",
]
INVALID = {"body": "oops"}
NGRAM = 8

texts = st.lists(st.sampled_from(TEXTS), max_size=12)


@dataclass(frozen=True)
class Case:
    """A recipe's data and the rows of its files, by stream."""

    data: dict[str, Any]
    rows: dict[str, list[dict[str, str]]]

    def write(self, place: Place) -> Recipe:
        """Write the files, and return a recipe that reads them."""
        for stream, rows in self.rows.items():
            (place.base / f"{stream}.jsonl").put("".join(json.dumps(row) + "\n" for row in rows).encode())
        sources = {stream: [{"uri": f"{place.base}/{stream}.jsonl"}] for stream in self.rows}
        data = self.data | {"train": sources["train"]}
        if "validation" in sources:
            data |= {"validation": {"sources": sources["validation"]}}
        if "replay" in sources:
            data |= {"replay": {"fraction": 0.1, "sources": sources["replay"]}}
        evaluation = {"general": sources.get("general", [])}
        return place.recipe(model={"uri": f"{place.base}/model"}, data=data, evaluation=evaluation)


def write_apart(stream: str) -> str:
    """Write a text of more than a sequence that shares no words with any other stream."""
    return " ".join(f"{stream}{i}" for i in range(40))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    more = draw(texts)
    rows = [{"text": text} for text in FILLERS + more]
    for place in draw(st.lists(st.integers(0, len(rows)), max_size=3)):
        rows.insert(place, INVALID)
    streams = {"train": rows}
    for stream in draw(st.sets(st.sampled_from(["replay", "validation", "general"]))):
        streams[stream] = [{"text": text} for text in [write_apart(stream), *draw(texts)]]
    data: dict[str, Any] = {"invalidRows": "Drop", "deduplicate": draw(st.sampled_from(["none", "exact", "near"]))}
    data |= draw(st.sampled_from([{}, {"decontaminate": {"ngram": NGRAM}}]))
    data |= {"validation": {"fraction": draw(st.sampled_from([0, 0.2]))}}
    return Case(data, streams)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("fates")
    made = Place(open_store(f"file://{folder}/store", Storage()), Storage(), folder / "scratch")
    made.put_model()
    return made


def decide(recipe: Recipe) -> DecidedStreams:
    return DecidedStreams(recipe, FileStreams(recipe, list_files(recipe)))


def fates_of(decided: DecidedStreams, stream: str) -> list[Fate]:
    return [each.fate for each in decided.read(stream, "reading")]


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}


def expect(case: Case, recipe: Recipe) -> dict[str, list[Fate]]:
    """The fates by the words of the API's fields, without the near-duplicates: each rule as plainly as can be."""
    fraction = recipe.data.validation.held_out_fraction
    train = [row["text"] for row in case.rows["train"] if "text" in row]
    validation = [row["text"] for row in case.rows.get("validation", [])]
    held_out = validation + [text for text in train if is_held_out(text, fraction)]
    general = [row["text"] for row in case.rows.get("general", [])]
    compared = set().union(*map(ngrams, held_out + general)) if recipe.data.decontaminate is not None else set()
    found: dict[str, list[Fate]] = {}
    seen: set[tuple[str, str]] = set()
    for stream, rows in case.rows.items():
        found[stream] = []
        for row in rows:
            text = row.get("text")
            if text is None:
                found[stream].append(Fate(stream, "invalid"))
                continue
            name = "validation" if stream == "train" and is_held_out(text, fraction) else stream
            found[stream].append(Fate(name, None))
            if not text.strip():
                found[stream][-1] = Fate(name, "empty")
            elif name == "train" and text in validation:
                found[stream][-1] = Fate(name, "heldOut")
            elif name in ("train", "replay") and ngrams(text) & compared:
                found[stream][-1] = Fate(name, "contaminated")
            elif recipe.data.deduplicate != "none":
                if (name, text) in seen:
                    found[stream][-1] = Fate(name, "duplicate")
                seen.add((name, text))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(case=cases())
def test_each_row_has_one_fate_and_the_same_whenever_it_is_read(place: Place, case: Case) -> None:
    recipe = case.write(place)
    decided = decide(recipe)
    first = {stream: fates_of(decided, stream) for stream in decided.names}
    assert {stream: len(fates) for stream, fates in first.items()} == {
        stream: len(rows) for stream, rows in case.rows.items()
    }
    assert {stream: fates_of(decided, stream) for stream in decided.names} == first
    for order in list(permutations(decided.names))[1:3]:
        again = decide(recipe)
        assert {stream: fates_of(again, stream) for stream in order} == first
    if recipe.data.deduplicate != "near":
        assert first == expect(case, recipe)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10)
@given(case=cases(), fraction=st.sampled_from([None, 0.3]))
def test_the_writer_and_the_preview_count_the_fates(place: Place, case: Case, fraction: float | None) -> None:
    if fraction is not None:
        (place.base / "target.jsonl").put(b'{"text": "birds and dogs"}\n')
        target = [{"uri": f"{place.base}/target.jsonl"}]
        case.data["select"] = {"method": "similarity", "fraction": fraction, "target": target}
    recipe = case.write(place)
    with TemporaryDirectory(dir=place.scratch.parent) as name:
        output = {"uri": f"file://{name}/out"}
        recipe = Recipe.model_validate(recipe.model_dump(by_alias=True, exclude_none=True) | {"output": output})
        there = Place(open_store(f"file://{name}", Storage()), Storage(), Path(name) / "scratch")
        there.scratch.mkdir()
        there.prepare(recipe)
        written = there.dataset().info.streams
        left = json.loads((there.base / "out" / "preview.json").get().data)["rows"]
    shown = preview_run(recipe)
    assert {name: (info.documents, info.left_out) for name, info in shown.streams.items()} == {
        name: (info.documents, info.left_out) for name, info in written.items()
    }
    assert [row.model_dump(by_alias=True) for row in shown.rows] == left
    assert sum(info.documents + info.dropped + sum(info.left_out.values()) for info in written.values()) == sum(
        map(len, case.rows.values())
    )
    decided = decide(recipe)
    counts = Counter(fate.left_out for stream in decided.names for fate in fates_of(decided, stream) if fate.left_out)
    selected = {"noise", "notSelected"}
    assert counts == sum(
        (Counter({k: v for k, v in info.left_out.items() if k not in selected}) for info in written.values()), Counter()
    )
