"""What `runyard preview` shows of real rows, and what `prepare` leaves of the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from runyard.cli.preview import print_preview
from runyard_trainer.contract.exits import UserError
from runyard_trainer.preparation.first_rows import SAMPLED_ROWS
from runyard_trainer.preparation.preview import Preview, preview_run

from tests.places import Place
from tests.s3server import S3Server


@pytest.fixture
def place(place: Place) -> Place:
    place.put_model()
    return place


def put(place: Place, name: str, rows: list[Any]) -> dict[str, str]:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    (place.base / name).put("".join(line + "\n" for line in lines).encode())
    return {"uri": f"{place.base}/{name}"}


def texts(count: int, word: str = "train") -> list[dict[str, str]]:
    return [{"text": f"{word} number {i} is {i * i}"} for i in range(count)]


def preview(place: Place, *sources: dict[str, str], **sections: Any) -> Preview:
    data = {"train": list(sources), "validation": {"fraction": 0}} | sections.pop("data", {})
    return preview_run(place.recipe(model={"uri": f"{place.base}/model"}, data=data, **sections))


def test_each_row_is_shown_with_what_is_trained_on_or_why_it_is_left_out(place: Place) -> None:
    validation = put(place, "held.jsonl", texts(2, "held"))
    rows = [*texts(4), {"text": "train number 1 is 1"}, {"text": " "}, {"text": "held number 1 is 1"}, "oops"]
    found = preview(place, put(place, "a.jsonl", rows), data={"validation": {"sources": [validation]}})
    shown = [(row.place.rpartition("/")[2], row.stream, row.left_out) for row in found.rows]
    assert shown == [
        ("a.jsonl:1", "train", ""),
        ("a.jsonl:2", "train", ""),
        ("a.jsonl:3", "train", ""),
        ("a.jsonl:5", "train", "duplicate"),
        ("a.jsonl:6", "train", "empty"),
        ("a.jsonl:7", "train", "also in data.validation.sources"),
        ("a.jsonl:8", "train", "not JSON: Expecting value at column 1"),
        ("held.jsonl:1", "validation", ""),
        ("held.jsonl:2", "validation", ""),
    ]
    first = found.rows[0]
    assert [(piece.text, piece.trained) for piece in first.pieces] == [("train number 0 is 0<|endoftext|>", True)]
    assert first.tokens == first.trained_tokens > 3
    assert found.streams["train"].left_out == {"duplicate": 1, "empty": 1, "heldOut": 1, "invalid": 1}
    assert found.streams["train"].documents == 4
    assert found.would_fail
    assert not found.is_sample


def test_few_wrong_rows_that_may_be_dropped_refuse_nothing(place: Place) -> None:
    source = put(place, "a.jsonl", [*texts(50), "oops"])
    assert preview(place, source).would_fail
    assert not preview(place, source, data={"invalidRows": "Drop"}).would_fail


def test_classes_are_shown_as_what_is_to_be_learned(place: Place) -> None:
    from transformers import AutoModelForMaskedLM

    from tests.ranks.tiny_models import save_model

    folder = Path(place.base.uri.removeprefix("file://")) / "bert"
    save_model(folder, "bert", AutoModelForMaskedLM)
    rows = [{"text": "the cat sees the dog " * (i + 1), "label": ("good", "bad")[i % 2]} for i in range(20)]
    data = {"train": [put(place, "a.jsonl", rows)], "validation": {"fraction": 0}}
    sections = {"model": {"uri": f"file://{folder}"}, "data": data, "objective": "classification"}
    found = preview_run(place.recipe(**sections))
    assert [(row.target, row.truncated, row.trained_tokens) for row in found.rows] == [
        ("good", False, 0),
        ("bad", False, 0),
        ("good", False, 0),
    ]
    assert found.streams["train"].truncated == 20 - 6
    assert found.estimate.steps == 10


SHOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "token-classification": (
        {"tokens": ["the", "red", "cat", "sees"], "tags": ["O", "B-ANIMAL", "I-ANIMAL", "O"]},
        "[CLS]<the red cat sees>[SEP]",
        "O B-ANIMAL I-ANIMAL O",
    ),
    "question-answering": (
        {"question": "dog sees", "context": "the red cat sees", "answers": {"text": ["cat"], "answer_start": [8]}},
        "[CLS] dog sees [SEP] the red<cat>sees [SEP]",
        "cat",
    ),
    "masked-lm": ({"text": "the red cat"}, "[CLS]<the red cat>[SEP]", ""),
    "masked-lm-nsp": ({"sentences": ["the red cat sees", "a dog"]}, "<the red cat sees a dog>", ""),
    "sft": ({"prompt": "the red cat", "completion": " but good"}, "[CLS] the red cat<but good [SEP]>", ""),
    "preference": (
        {"prompt": "the cat", "chosen": " but good", "rejected": " but bad"},
        "[CLS] the cat<but good [SEP]>[CLS] the cat<but bad [SEP]>",
        "",
    ),
}
"""By objective: a record, what is shown of it with what is trained on between < and >, and what is learned besides."""


@pytest.mark.parametrize("objective", SHOWN)
def test_what_is_trained_on_is_told_apart(place: Place, objective: str) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForPreTraining

    from tests.ranks.tiny_models import save_model

    record, shown, target = SHOWN[objective]
    folder = Path(place.base.uri.removeprefix("file://")) / "mine"
    is_causal = objective in ("preference", "sft")
    save_model(folder, "llama" if is_causal else "bert", AutoModelForCausalLM if is_causal else AutoModelForPreTraining)
    others = [json.loads(json.dumps(record).replace("red", word)) for word in ("old", "small")]
    data = {"train": [put(place, "a.jsonl", [record, *others])], "validation": {"fraction": 0}}
    training = {"epochs": 1, "sequenceLength": 32}
    model = {"uri": f"file://{folder}"}
    found = preview_run(place.recipe(model=model, data=data, objective=objective, training=training))
    row = found.rows[0]
    text = "".join(f"<{piece.text}>" if piece.trained else piece.text for piece in row.pieces)
    assert re.sub(r"\s*([<>])\s*", r"\1", text).strip() == shown
    assert row.target == target


def test_a_row_with_a_field_that_would_be_lost_is_shown_with_its_name(place: Place) -> None:
    from transformers import AutoModelForCausalLM

    from tests.ranks.tiny_models import save_model

    folder = Path(place.base.uri.removeprefix("file://")) / "mine"
    save_model(folder, "llama", AutoModelForCausalLM)
    rows: list[Any] = [{"prompt": f"the {word} cat", "completion": " but good"} for word in ("red", "old", "small")]
    data = {"train": [put(place, "a.jsonl", [*rows, rows[0] | {"images": ["a.png"]}])], "validation": {"fraction": 0}}
    found = preview_run(place.recipe(model={"uri": f"file://{folder}"}, data=data, objective="sft"))
    told = {row.place.rpartition("/")[2]: row.left_out for row in found.rows if row.left_out}
    assert told == {
        "a.jsonl:4": "field 'images' is not trained on: only text is: leave out the records that need it, or remove "
        "the field"
    }
    assert found.would_fail


def test_the_estimate_of_a_part_is_near_that_of_the_whole(place: Place) -> None:
    source = put(place, "a.jsonl", texts(10 * SAMPLED_ROWS))
    found = preview(place, source)
    assert found.is_sample
    assert found.streams["train"].documents == SAMPLED_ROWS
    data = {"train": [source], "validation": {"fraction": 0}}
    report = place.prepare(place.recipe(model={"uri": f"{place.base}/model"}, data=data))
    assert report.data is not None
    assert report.data.estimate is not None
    assert report.resolved is not None
    assert found.estimate.steps == pytest.approx(report.data.estimate.steps, rel=0.15)
    assert report.data.estimate.steps == int(report.resolved["totalSteps"])
    assert float(report.data.estimate.flops or 0) > 0


def test_prepare_leaves_the_same_of_all_rows_beside_the_output(place: Place) -> None:
    source = put(place, "a.jsonl", [*texts(300), *texts(10)])
    data = {"train": [source], "validation": {"fraction": 0.1}}
    place.prepare(place.recipe(model={"uri": f"{place.base}/model"}, data=data))
    left = Preview.model_validate_json((place.base / "out" / "preview.json").get().data)
    assert left.streams["train"].documents + left.streams["validation"].documents == 300
    assert not left.is_sample
    assert left.rows == preview(place, source, data={"validation": {"fraction": 0.1}}).rows


def test_an_encoders_refusal_names_the_row_that_the_person_wrote(place: Place) -> None:
    source = put(place, "a.jsonl", ["", *texts(3), {"input_ids": [1, 999]}])
    with pytest.raises(UserError, match=rf"^{re.escape(source['uri'])}:5: token id 999 is beyond"):
        preview(place, source)


def test_what_leaves_nothing_to_train_on_is_refused_as_by_prepare(place: Place) -> None:
    source = put(place, "few.jsonl", [])
    with pytest.raises(UserError, match=r"data\.train has 0 documents with 0 tokens: less than one sequence"):
        preview(place, source)


def test_rows_on_s3_are_shown_without_writing_there(s3: S3Server, tmp_path: Path) -> None:
    place = Place.on_s3(s3, tmp_path)
    source = put(place, "a.jsonl", texts(30))
    before = set(place.base.children())
    data = {"train": [source], "validation": {"fraction": 0}}
    found = preview_run(place.recipe(data=data))
    assert found.rows[0].place == f"{place.base}/a.jsonl:1"
    assert set(place.base.children()) == before


# ------------------------------------------------------------------------------------------------------ command line


def run_command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "runyard", "preview", path, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write_run(place: Place, path: Path, source: dict[str, str], **fields: Any) -> Path:
    data = {"train": [source], "validation": {"fraction": 0}}
    recipe = place.recipe(model={"uri": f"{place.base}/model"}, data=data)
    spec = recipe.model_dump(mode="json", by_alias=True, exclude_none=True) | {"compute": {}} | fields
    path.write_text(yaml.safe_dump({"kind": "TrainingRun", "metadata": {"name": "a"}, "spec": spec}))
    return path


def test_the_command_shows_a_run_and_its_status_tells_that_rows_are_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(place, tmp_path / "run.yaml", put(place, "a.jsonl", [*texts(30), "oops"]))
    done = run_command(path, "-o", "json")
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert found["streams"]["train"]["documents"] == 30
    print_preview(found)
    told = capsys.readouterr().out
    for words in (
        "a.jsonl:1 train",
        "train number 0 is 0<|endoftext|>",
        "left out: not JSON",
        " steps of 4 samples, ",
        "will refuse",
    ):
        assert words in told


def test_the_command_tells_a_mistake_by_field(place: Place, tmp_path: Path) -> None:
    path = write_run(place, tmp_path / "run.yaml", {"uri": f"{place.base}/a.jsonl"}, trainning={"epochs": 1})
    done = run_command(path)
    assert done.returncode == 1
    assert done.stderr == f"runyard: {path} is no TrainingRun:\n  spec.trainning: Extra inputs are not permitted\n"
    path = write_run(place, tmp_path / "run.yaml", {"uri": f"{place.base}/nothing.jsonl"})
    done = run_command(path)
    assert done.returncode == 65
    assert done.stderr.startswith(f"error: data.train[0].uri: nothing lies at {place.base}/nothing.jsonl")


def test_the_command_says_why_an_automatic_batch_is_so_small(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"epochs": 1, "sequenceLength": 32}
    found = preview(place, put(place, "a.jsonl", texts(30)), training=training)
    print_preview(json.loads(found.to_json()))
    told = capsys.readouterr().out
    assert f"{found.estimate.steps} steps of {found.estimate.batch_sequences} samples (fewer than the default" in told
    assert f"{found.estimate.batch_reason}), {found.estimate.tokens:,} tokens" in told
