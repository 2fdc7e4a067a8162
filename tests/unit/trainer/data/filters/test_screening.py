"""What is kept out of training: duplicates, near-duplicates, held-out data and its n-grams; through `prepare`."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runyard_trainer.contract.exits import UserError
from runyard_trainer.data.filters.screening import is_held_out

from tests.places import Place

STORY = (
    "The old dog sees a small red bird in the tree behind the house and follows it along the river until the sun goes "
    "down, then it comes home and sleeps by the fire while the cat watches the door and the rain begins to fall again"
)


def put(place: Place, name: str, rows: list[dict[str, Any]]) -> str:
    (place.base / name).put("".join(json.dumps(row) + "\n" for row in rows).encode())
    return f"{place.base}/{name}"


def fillers(word: str, count: int = 30) -> list[dict[str, Any]]:
    return [{"text": f"{word} number {i} is {i * i} and has {i % 7} parts"} for i in range(count)]


def left_out(place: Place, data: dict[str, Any], **sections: Any) -> dict[str, dict[str, int]]:
    """What was left out of each stream, by reason."""
    place.prepare(place.recipe(data=data, **sections))
    return {name: info.left_out for name, info in place.dataset().info.streams.items()}


def held_out_texts(place: Place) -> list[str]:
    lines = (place.dataset().location / "validation.jsonl").get().data.splitlines()
    return [json.loads(line)["text"] for line in lines]


def test_of_records_that_are_the_same_one_is_kept(place: Place) -> None:
    train = put(place, "a.jsonl", fillers("train") * 2 + [{"text": "Train number 1"}])
    data = {"train": [{"uri": train}], "validation": {"fraction": 0}}
    assert left_out(place, data) == {"train": {"duplicate": 30}}
    assert place.dataset().info.streams["train"].documents == 31
    assert left_out(place, data | {"deduplicate": "none"}) == {"train": {}}


def test_the_report_tells_what_was_left_out(place: Place) -> None:
    train = put(place, "a.jsonl", [*fillers("train"), *fillers("train"), {"text": " "}])
    report = place.prepare(place.recipe(data={"train": [{"uri": train}], "validation": {"fraction": 0}}))
    assert ", 30 duplicate, 1 empty; " in report.message
    assert report.data is not None
    assert report.data.dropped == 31


def test_a_copy_of_a_held_out_record_is_not_trained_on_and_the_set_is_the_one_given(place: Place) -> None:
    validation = put(place, "held.jsonl", fillers("held", 5))
    train = put(place, "a.jsonl", fillers("train") + fillers("held", 5)[:3])
    data = {"train": [{"uri": train}], "validation": {"sources": [{"uri": validation}]}}
    assert left_out(place, data) == {"train": {"heldOut": 3}, "validation": {}}
    assert held_out_texts(place) == [row["text"] for row in fillers("held", 5)]
    assert place.dataset().info.streams["train"].documents == 30


def test_near_duplicates_are_left_out_on_request_and_straddle_no_split(place: Place) -> None:
    variants = [{"text": f"{STORY} {ending}"} for ending in ("today", "tomorrow", "at night", "in May", "slowly")]
    assert 0 < sum(is_held_out(row["text"], 0.5) for row in variants) < 5
    train = put(place, "a.jsonl", fillers("train") + variants)
    data = {"train": [{"uri": train}], "validation": {"fraction": 0.5}, "deduplicate": "near"}
    assert left_out(place, data)["train"]["nearDuplicate"] >= sum(not is_held_out(r["text"], 0.5) for r in variants)
    without_split = data | {"validation": {"fraction": 0}}
    assert left_out(place, without_split)["train"]["nearDuplicate"] >= 4
    kept_all = data | {"deduplicate": "exact"}
    assert left_out(place, kept_all) == {"train": {}, "validation": {}}


def test_what_shares_13_words_with_held_out_data_is_left_out_on_request(place: Place) -> None:
    words = STORY.split()
    shares_13 = {"text": "Before: " + ", ".join(words[4:17]).upper() + " - and something else entirely"}
    shares_12 = {"text": "Before: " + " ".join(words[20:32]) + " and something else entirely"}
    general = put(place, "general.jsonl", [{"text": STORY}])
    train = put(place, "a.jsonl", [*fillers("train"), shares_13, shares_12])
    replay = put(place, "replay.jsonl", [*fillers("replay"), shares_13])
    data = {
        "train": [{"uri": train}],
        "validation": {"fraction": 0},
        "replay": {"fraction": 0.1, "sources": [{"uri": replay}]},
        "decontaminate": {},
    }
    evaluation = {"general": [{"uri": general}]}
    found = left_out(place, data, evaluation=evaluation)
    assert found == {"train": {"contaminated": 1}, "replay": {"contaminated": 1}, "general": {}}
    stricter = data | {"decontaminate": {"ngram": 12}}
    assert left_out(place, stricter, evaluation=evaluation)["train"] == {"contaminated": 2}


def test_wrong_rows_are_left_out_and_counted_if_they_are_few(place: Place) -> None:
    train = put(place, "a.jsonl", [*fillers("train"), {"body": "oops"}])
    data = {"train": [{"uri": train}], "validation": {"fraction": 0}}
    assert left_out(place, data | {"invalidRows": "Drop"}) == {"train": {"invalid": 1}}
    with pytest.raises(UserError, match=r"a\.jsonl:31: no field 'text'"):
        place.prepare(place.recipe(data=data, output={"uri": f"{place.base}/other"}))
    put(place, "a.jsonl", [*fillers("train"), *[{"body": "oops"}] * 2])
    with pytest.raises(UserError, match="leaves out at most 5% of the rows, and 2 of 32 are wrong"):
        place.prepare(place.recipe(data=data | {"invalidRows": "Drop"}))


def test_both_kinds_of_validation_are_refused() -> None:
    from runyard_trainer.contract.data import Validation

    with pytest.raises(ValueError, match=r"data\.validation\.fraction and data\.validation\.sources are both set"):
        Validation.model_validate({"fraction": 0.1, "sources": [{"uri": "file:///a"}]})


# ------------------------------------------------------------------------------------------------------------ documents


def test_texts_of_bedrock_and_token_ids_are_documents(place: Place) -> None:
    place.put_model()
    tokenizer = place_tokenizer(place)
    ids = [tokenizer.encode(row["text"]).ids for row in fillers("tokens")]
    ids[1].append(0)  # an end-of-document token that is there is not added again
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"input_ids": ids}), sink)
    (place.base / "tokens.parquet").put(sink.getvalue().to_pybytes())
    bedrock = put(place, "bedrock.jsonl", [{"input": row["text"]} for row in fillers("bedrock")])
    plain = put(place, "plain.jsonl", fillers("plain"))
    sources = [{"uri": uri} for uri in (bedrock, f"{place.base}/tokens.parquet", plain)]
    data = {"train": sources, "validation": {"fraction": 0}}
    place.prepare(place.recipe(model={"uri": f"{place.base}/model"}, data=data))
    found = place.dataset().stream("train")
    want = [row["text"] for word in ("bedrock", "tokens", "plain") for row in fillers(word)]
    decoded = tokenizer.decode(found.sequence(0, found.info.tokens).input_ids.tolist(), skip_special_tokens=False)
    assert decoded.split("<|endoftext|>")[:-1] == want
    assert found.info.bytes == sum(len(text.encode()) for text in want)


def place_tokenizer(place: Place) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str((place.base / "model" / "tokenizer.json").get().data.decode())
