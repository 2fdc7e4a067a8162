"""Preparing a run, from text in a store to shards in it; against a folder and a real S3 server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.dataset.dataset import read_resolved
from runyard_trainer.data.filters.screening import is_held_out

from tests.places import Place, decode_all


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    """The quick store, for what has nothing to do with stores."""
    return Place.in_folder(tmp_path)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of store."""
    if request.param == "folder":
        found: Place = request.getfixturevalue("folder")
        return found
    return Place.on_s3(request.getfixturevalue("s3"), tmp_path)


# ------------------------------------------------------------------------------------------------------- what it leaves


def test_every_document_is_trained_on_or_held_out_and_can_be_read_back(place: Place) -> None:
    texts = place.put_text()
    replayed = place.put_text("replay", 30)
    general = place.put_text("general", 10)
    data = {
        "train": [{"uri": f"{place.base}/text/"}],
        "validation": {"fraction": 0.2},
        "replay": {"fraction": 0.1, "sources": [{"uri": f"{place.base}/replay/a.jsonl"}]},
    }
    report = place.prepare(place.recipe(data=data, evaluation={"general": [{"uri": f"{place.base}/general"}]}))

    dataset = place.dataset()
    held_out = [text for text in texts if is_held_out(text, 0.2)]
    assert 3 < len(held_out) < 25
    assert decode_all(dataset, "train") == [text for text in texts if text not in held_out]
    assert decode_all(dataset, "validation") == held_out
    assert decode_all(dataset, "replay") == replayed
    assert decode_all(dataset, "general") == general
    assert dataset.stream("general").info.bytes == sum(len(text) for text in general)
    for stream, want in (("validation", held_out), ("general", general)):
        lines = (dataset.location / f"{stream}.jsonl").get().data.splitlines()
        assert [json.loads(line)["text"] for line in lines] == want
    assert {name: info.left_out for name, info in dataset.info.streams.items()} == {
        "train": {"empty": 1},
        "validation": {},
        "replay": {"empty": 1},
        "general": {"empty": 1},
    }

    train = dataset.stream("train").info
    num_steps = -(-2 * (train.tokens // 32) // 4)
    assert report.reason == "Completed"
    assert report.data is not None
    assert (report.data.documents, report.data.tokens) == (len(texts) - len(held_out), train.tokens)
    assert report.data.validation_documents == len(held_out)
    assert report.resolved == read_resolved(place.base / "out").resolved
    assert report.resolved == {
        "learningRate": "0.0003",
        "batchSequences": "4",
        "batchTokens": "128",
        "totalSteps": str(num_steps),
        "vocabSize": "300",
    }
    assert len(report.to_json()) < 4096
    assert json.loads((place.base / "out" / "run.json").get().data) == {
        "uid": "uid-1",
        "namespace": "team",
        "name": "mine",
    }


def test_the_same_inputs_are_prepared_once(place: Place) -> None:
    place.put_text()
    first = place.prepare(place.recipe())
    written = {name: info.etag for name, info in place.dataset().location.children().items()}
    (place.dataset().location / "train-proof.bin").put(b"a second preparation would not remove this")

    longer = place.recipe(training={"epochs": 1, "sequenceLength": 16}, output={"uri": f"{place.base}/out2"})
    second = place.prepare(longer, uid="uid-2")
    assert first.data is not None
    assert second.data is not None
    assert (second.data.manifest, second.data.tokens) == (first.data.manifest, first.data.tokens)
    assert first == place.prepare(place.recipe())
    after = {name: info.etag for name, info in place.dataset().location.children().items()}
    assert after.pop("train-proof.bin")
    assert after == written


def test_other_text_or_another_split_is_prepared_anew(folder: Place) -> None:
    folder.put_text()
    manifests = []
    for count, fraction in ((60, 0.2), (61, 0.2), (61, 0.1)):
        folder.put_text(count=count)
        data = {"train": [{"uri": f"{folder.base}/text/"}], "validation": {"fraction": fraction}}
        report = folder.prepare(folder.recipe(data=data))
        assert report.data is not None
        manifests.append(report.data.manifest)
    assert len(set(manifests)) == 3


def test_two_preparations_from_the_start_write_the_same_bytes(folder: Place) -> None:
    folder.put_text()
    folder.prepare(folder.recipe())
    location = folder.dataset().location
    first = {name: (location / name).get().data for name in location.children()}
    (location / "dataset.json").delete()
    folder.prepare(folder.recipe())
    assert {name: (location / name).get().data for name in location.children()} == first


def test_copies_of_a_document_stay_on_one_side_of_the_split(folder: Place) -> None:
    texts = folder.put_text()
    (folder.base / "text" / "b.jsonl").put((folder.base / "text" / "a.jsonl").get().data)
    data = {"train": [{"uri": f"{folder.base}/text/"}], "validation": {"fraction": 0.2}, "deduplicate": "none"}
    folder.prepare(folder.recipe(data=data))
    trained, held_out = (decode_all(folder.dataset(), stream) for stream in ("train", "validation"))
    assert sorted(trained + held_out) == sorted(texts * 2)
    assert not set(trained) & set(held_out)


def test_a_model_is_continued_with_its_own_tokenizer(folder: Place) -> None:
    folder.put_text()
    folder.put_model()
    report = folder.prepare(folder.recipe(model={"uri": f"{folder.base}/model/"}))
    location = folder.dataset().location / "tokenizer"
    assert location.children().keys() == {"tokenizer.json", "tokenizer_config.json"}
    for name in location.children():
        assert (location / name).get().data == (folder.base / "model" / name).get().data
    assert report.resolved is not None
    assert report.resolved["learningRate"] == "1e-05"


def test_a_preparation_leaves_no_scratch_behind(folder: Place) -> None:
    folder.put_text()
    folder.prepare(folder.recipe())
    assert [path for path in folder.scratch.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------------------------------------------------ ownership


def test_an_output_of_another_run_is_refused_unless_it_is_taken_over(place: Place) -> None:
    place.put_text()
    place.prepare(place.recipe(), uid="uid-1")
    with pytest.raises(UserError) as caught:
        place.prepare(place.recipe(), uid="uid-2")
    assert caught.value.code is ExitCode.OUTPUT_TAKEN
    assert str(caught.value) == (
        f"output.uri {place.base}/out belongs to run team/mine (uid uid-1): write elsewhere, or go on from what it has "
        "left with output.takeOver: true"
    )
    place.prepare(place.recipe(output={"uri": f"{place.base}/out", "takeOver": True}), uid="uid-2")
    with pytest.raises(UserError, match="uid uid-2"):
        place.prepare(place.recipe(), uid="uid-1")


# ------------------------------------------------------------------------------------------------------------ bad input


def scratch(**config: object) -> dict[str, Any]:
    return {"scratch": {"config": config, "tokenizer": {"train": {"vocabSize": 300}}}}


def no_change(_: Place) -> None:
    pass


def remove(*names: str) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        for name in names:
            (place.base / "model" / name).delete()

    return change


def put(name: str, data: bytes) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        (place.base / name).put(data)

    return change


def keep_only_pickles(place: Place) -> None:
    remove("model.safetensors")(place)
    put("model/pytorch_model.bin", b"pickle")(place)


def remove_eos(place: Place) -> None:
    path = place.base / "model" / "tokenizer_config.json"
    config = json.loads(path.get().data)
    path.put(json.dumps({key: value for key, value in config.items() if key != "eos_token"}).encode())


SPEC, DATA = ExitCode.SPEC_ERROR, ExitCode.DATA_ERROR
CONTINUED: dict[str, object] = {"model": {"uri": "BASE/model"}}

BAD_INPUT: dict[str, tuple[Callable[[Place], None], dict[str, object], ExitCode, str]] = {
    "nothing at a prefix": (
        no_change,
        {"data": {"train": [{"uri": "BASE/nowhere/"}]}},
        DATA,
        "data.train[0].uri: nothing lies at BASE/nowhere/: it is neither an object nor a prefix with objects below it",
    ),
    "only empty documents": (
        put("text/a.jsonl", b'{"text": ""}\n\n'),
        {},
        DATA,
        "data.train has 0 documents with 0 tokens besides 1 empty: less than one sequence of training.sequenceLength "
        "32. Give more text, or shorter sequences",
    ),
    "an empty file": (
        put("text/a.jsonl", b""),
        {},
        DATA,
        "data.train has 0 documents with 0 tokens: less than one sequence of training.sequenceLength 32. "
        "Give more text, or shorter sequences",
    ),
    "less text than a sequence": (
        put("text/a.jsonl", b'{"text": "xyz"}'),
        {},
        DATA,
        "data.train has 1 documents with 2 tokens: less than one sequence of training.sequenceLength 32. "
        "Give more text, or shorter sequences",
    ),
    "less replay than a sequence": (
        put("replay.txt", b"xyz"),
        {
            "data": {
                "train": [{"uri": "BASE/text"}],
                "replay": {"fraction": 0.1, "sources": [{"uri": "BASE/replay.txt"}]},
            }
        },
        DATA,
        "data.replay.sources has 1 documents with 4 tokens: less than one sequence of training.sequenceLength 32. "
        "Give more text, or shorter sequences",
    ),
    "a broken line": (
        put("text/b.jsonl", b'{"text": "fine"}\n{"text": }\n'),
        {},
        DATA,
        "BASE/text/b.jsonl:2: not JSON: Expecting value at column 10",
    ),
    "a model folder that is none": (
        remove("config.json"),
        CONTINUED,
        DATA,
        "model.uri: BASE/model has no config.json: it is no Hugging Face model folder",
    ),
    "a broken config.json": (
        put("model/config.json", b"{}"),
        CONTINUED,
        DATA,
        "model.uri: BASE/model/config.json is not a configuration with a model_type: 'model_type'",
    ),
    "a model without weights": (
        remove("model.safetensors"),
        CONTINUED,
        DATA,
        "model.uri: BASE/model has no safetensors weights: save the model again with save_pretrained",
    ),
    "a model with pickles only": (
        keep_only_pickles,
        CONTINUED,
        DATA,
        "model.uri: BASE/model has no safetensors weights, only pytorch_model.bin, which may run code when opened: "
        "save the model again with save_pretrained",
    ),
    "a model that was not uploaded whole": (
        put("model/model.safetensors.index.json", b'{"weight_map": {"a": "model.safetensors", "b": "2.safetensors"}}'),
        CONTINUED,
        DATA,
        "model.uri: BASE/model lacks 1 of 2 files of weights, 2.safetensors first: upload the whole model",
    ),
    "a model without a tokenizer": (
        remove("tokenizer.json"),
        CONTINUED,
        DATA,
        "model.uri: BASE/model has no tokenizer.json: save a fast tokenizer there with save_pretrained",
    ),
    "a tokenizer without an end": (
        remove_eos,
        CONTINUED,
        DATA,
        "model.uri: BASE/model: the tokenizer has no eos_token, which ends every document: name one in "
        "tokenizer_config.json",
    ),
    "a tokenizer of another model": (
        lambda place: place.put_model(vocab_size=299),
        CONTINUED,
        DATA,
        "model.uri: the tokenizer of BASE/model has 300 tokens, but config.json says vocab_size 299: put the tokenizer "
        "there that the model was trained with",
    ),
    "sequences longer than a model's": (
        no_change,
        CONTINUED | {"training": {"steps": 1, "sequenceLength": 65}},
        SPEC,
        "training.sequenceLength is 65, but the model takes at most 64 tokens (model.uri: BASE/model/config.json says "
        "max_position_embeddings 64): shorten training.sequenceLength",
    ),
    "sequences longer than a new model's": (
        no_change,
        {"model": scratch(model_type="gpt2", n_positions=16)},
        SPEC,
        "training.sequenceLength is 32, but the model takes at most 16 tokens (model.scratch.config.n_positions 16): "
        "shorten training.sequenceLength",
    ),
    "no model_type": (
        no_change,
        {"model": scratch(hidden_size=16)},
        SPEC,
        "model.scratch.config has no model_type: name the architecture, for example llama",
    ),
    "an unknown model_type": (
        no_change,
        {"model": scratch(model_type="lama")},
        SPEC,
        f"model.scratch.config.model_type: transformers {transformers.__version__} knows no 'lama': "
        "did you mean llama?",
    ),
    "a model that predicts no next token": (
        no_change,
        {"model": scratch(model_type="vit")},
        SPEC,
        "model.scratch.config.model_type: 'vit' cannot predict the next token, which objective causal-lm trains",
    ),
    "an unknown field of a model": (
        no_change,
        {"model": scratch(model_type="llama", hiden_size=16)},
        SPEC,
        "model.scratch.config.hiden_size: llama has no such field: did you mean hidden_size?",
    ),
    "a wrong type in a model": (
        no_change,
        {"model": scratch(model_type="llama", hidden_size="large")},
        SPEC,
        "model.scratch.config: TypeError: Field 'hidden_size' expected int, got str (value: 'large')",
    ),
    "fields of a model that do not fit": (
        no_change,
        {"model": scratch(model_type="llama", hidden_size=30, num_attention_heads=4)},
        SPEC,
        "model.scratch.config: ValueError: The hidden size (30) is not a multiple of the number of attention heads "
        "(4).",
    ),
    "an output among the text": (
        no_change,
        {"output": {"uri": "BASE/text/out"}},
        SPEC,
        "output.uri BASE/text/out lies within data.train[0].uri BASE/text/: write elsewhere",
    ),
    "a model within the output": (
        no_change,
        CONTINUED | {"output": {"uri": "BASE"}, "data": {"train": [{"uri": "BASE/text"}]}},
        SPEC,
        "model.uri BASE/model lies within output.uri BASE: write elsewhere",
    ),
}


@pytest.mark.parametrize(("change", "sections", "code", "want"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_is_told_with_field_and_remedy(
    folder: Place, change: Callable[[Place], None], sections: dict[str, object], code: ExitCode, want: str
) -> None:
    base = folder.base.uri
    folder.put_text()
    folder.put_model()
    change(folder)
    with pytest.raises(UserError) as caught:
        folder.prepare(folder.recipe(**json.loads(json.dumps(sections).replace("BASE", base))))
    assert str(caught.value) == want.replace("BASE", base)
    assert caught.value.code is code
    assert not (folder.base / "out" / "resolved.json").exists()
