"""How often each stream is read while a dataset is written, and what is refused where files change meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.services import Storage
from runyard_trainer.preparation.dataset_writer import write_dataset
from runyard_trainer.preparation.fates import DecidedStreams
from runyard_trainer.preparation.record_streams import FileStreams, SourceRecord, list_files
from runyard_trainer.storage.open import open_store

from tests.places import LLAMA, Place

TRAINED = {"scratch": {"config": LLAMA, "tokenizer": {"train": {"vocabSize": 300}}}}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(open_store(f"file://{tmp_path}/store", Storage()), Storage(), tmp_path / "scratch")
    made.put_model()
    for name in ("train", "target", "held", "general"):
        rows = [{"text": f"{name} number {i} is {i * i}"} for i in range(30)]
        (made.base / f"{name}.jsonl").put("".join(json.dumps(row) + "\n" for row in rows).encode())
    return made


class CountedStreams:
    """The streams of files, counting how often each is read and doing something after each reading."""

    def __init__(self, recipe: Recipe, after: Callable[[], object] = lambda: None) -> None:
        self._files = FileStreams(recipe, list_files(recipe))
        self._after = after
        self.reads: Counter[str] = Counter()

    @property
    def names(self) -> Sequence[str]:
        return self._files.names

    def size_bytes(self, stream: str) -> int:
        return self._files.size_bytes(stream)

    def read(self, stream: str, activity: str) -> Iterator[SourceRecord]:
        self.reads[stream] += 1
        yield from self._files.read(stream, activity)
        self._after()


def recipe_of(place: Place, model: dict[str, Any] | None = None, **data: Any) -> Recipe:
    for name in ("select", "validation"):
        for field, stream in (("target", "target"), ("sources", "held")):
            if field in data.get(name, {}):
                data[name] |= {field: [{"uri": f"{place.base}/{stream}.jsonl"}]}
    made = {"train": [{"uri": f"{place.base}/train.jsonl"}], "validation": {"fraction": 0.1}} | data
    evaluation = {"general": [{"uri": f"{place.base}/general.jsonl"}]}
    return place.recipe(model=model or {"uri": f"{place.base}/model"}, data=made, evaluation=evaluation)


def write(place: Place, recipe: Recipe, streams: CountedStreams) -> None:
    place.scratch.mkdir(exist_ok=True)
    write_dataset(place.base / "data", recipe, DecidedStreams(recipe, streams), place.scratch)


SELECT = {"method": "similarity", "fraction": 0.5, "target": []}
READ_ONCE = {"train": 1, "general": 1}
READINGS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "written and nothing else": ({}, READ_ONCE),
    "a tokenizer trained": ({"model": TRAINED}, READ_ONCE | {"train": 2}),
    "documents selected": ({"select": SELECT}, READ_ONCE | {"train": 2, "target": 1}),
    "a tokenizer trained and documents selected, in one reading": (
        {"model": TRAINED, "select": SELECT},
        READ_ONCE | {"train": 2, "target": 1},
    ),
    "held-out text compared in part": ({"decontaminate": {}}, {"train": 2, "general": 2}),
    "all of it": (
        {"model": TRAINED, "select": SELECT, "decontaminate": {}},
        {"train": 3, "general": 2, "target": 1},
    ),
    "held-out sources": ({"validation": {"sources": []}, "deduplicate": "near"}, READ_ONCE | {"validation": 2}),
}


@pytest.mark.parametrize("what", READINGS)
def test_no_stream_is_read_more_often_than_must_be(place: Place, what: str) -> None:
    sections, want = READINGS[what]
    recipe = recipe_of(place, **json.loads(json.dumps(sections)))
    streams = CountedStreams(recipe)
    write(place, recipe, streams)
    assert streams.reads == want


def grow(data: bytes) -> bytes:
    return data + b'{"text": "one more"}\n'


def shrink(data: bytes) -> bytes:
    return data[: data.rindex(b"\n", 0, -1) + 1]


@pytest.mark.parametrize("change", [grow, shrink])
@pytest.mark.parametrize(
    ("sections", "activity"),
    [
        ({"model": TRAINED}, "tokens were learned from them"),
        ({"select": SELECT}, "data.select chose from them"),
    ],
)
def test_files_that_change_after_the_fates_were_decided_are_refused(
    place: Place, change: Callable[[bytes], bytes], sections: dict[str, Any], activity: str
) -> None:
    path = place.base / "train.jsonl"
    recipe = recipe_of(place, **json.loads(json.dumps(sections)))
    streams = CountedStreams(recipe, after=lambda: path.put(change(path.get().data)))
    with pytest.raises(UserError) as caught:
        write(place, recipe, streams)
    assert str(caught.value) == (
        f"data.train: its files have changed while {activity}: apply the run again when they are whole"
    )
    assert caught.value.code == ExitCode.DATA_ERROR
