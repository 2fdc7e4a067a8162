"""What would change no weight, or repeat samples that nobody asked to repeat, is refused before a GPU is spent."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import PodReport
from runyard_trainer.preparation.preview import preview_run
from runyard_trainer.training.state import TrainState, count_non_finite
from runyard_trainer.training.step import StepResult

from tests.places import Place

STREAM_TOKENS = 320
"""Ten sequences of 32 tokens."""


@pytest.fixture
def place(place: Place) -> Place:
    place.put_model()
    put_ids(place, [[5] * (STREAM_TOKENS - 1)])
    return place


def put_ids(place: Place, documents: list[list[int]]) -> None:
    lines = (json.dumps({"input_ids": ids}) + "\n" for ids in documents)
    (place.base / "text" / "a.jsonl").put("".join(lines).encode())


def prepare(place: Place, data: dict[str, Any] | None = None, **training: Any) -> PodReport:
    """And see that a preview says the same, or refuses alike."""
    recipe = place.recipe(
        model={"uri": f"{place.base}/model"},
        data={"train": [{"uri": f"{place.base}/text/"}], "validation": {"fraction": 0}, "deduplicate": "none"}
        | (data or {}),
        training={"sequenceLength": 32} | training,
    )
    resolved = place.base / "out" / "resolved.json"
    if resolved.name in resolved.parent.children():
        resolved.delete()
    try:
        report = place.prepare(recipe)
    except UserError as error:
        with pytest.raises(UserError, match=f"^{re.escape(str(error))}$"):
            preview_run(recipe)
        left = resolved.parent.children()
        if resolved.name in left:
            pytest.fail("the attempts would find a run that is refused")
        raise
    assert report.data is not None
    assert report.data.estimate == preview_run(recipe).estimate
    return report


# --------------------------------------------------------------------------------------------------------------- batch


@pytest.mark.parametrize("epochs", [1, 3, 0.5])
@pytest.mark.parametrize("field", ["batchSequences", "batchTokens"])
def test_a_batch_that_all_epochs_cannot_fill_is_refused_with_what_to_do(
    place: Place, field: str, epochs: float
) -> None:
    unit = 32 if field == "batchTokens" else 1
    samples = int(10 * epochs)
    refusal = rf"training\.{field}: .* give only {samples}\. Lower .*training\.steps"
    with pytest.raises(UserError, match=refusal) as caught:
        prepare(place, epochs=epochs, **{field: (samples + 1) * unit})
    assert caught.value.code == ExitCode.DATA_ERROR
    report = prepare(place, epochs=epochs, **{field: samples * unit})
    assert report.resolved is not None
    assert (report.resolved["batchSequences"], report.resolved["totalSteps"]) == (str(samples), "1")


@pytest.mark.parametrize("length", [{"steps": 2}, {"tokens": 4096}])
def test_a_batch_of_more_than_the_data_is_taken_where_the_length_of_the_run_is_said(
    place: Place, length: dict[str, int]
) -> None:
    report = prepare(place, batchSequences=64, **length)
    assert report.resolved is not None
    assert (report.resolved["batchSequences"], report.resolved["totalSteps"]) == ("64", "2")
    assert "batchReason" not in report.resolved


def test_samples_that_are_replayed_help_to_fill_a_batch(place: Place) -> None:
    replay = {"fraction": 0.5, "sources": [{"uri": f"{place.base}/text/"}]}
    report = prepare(place, {"replay": replay}, epochs=1, batchSequences=20)
    assert report.resolved is not None
    assert report.resolved["totalSteps"] == "1"
    with pytest.raises(UserError, match=r"training\.batchSequences: "):
        prepare(place, {"replay": replay}, epochs=1, batchSequences=21)


@pytest.mark.parametrize(("num_sequences", "batch"), [(1, 1), (7, 1), (8, 1), (17, 2), (80, 10)])
@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 5}])
def test_an_automatic_batch_is_cut_to_few_data_and_says_why(
    place: Place, num_sequences: int, batch: int, length: dict[str, int]
) -> None:
    put_ids(place, [[5] * (32 * num_sequences - 1)])
    report = prepare(place, **length)
    steps = length.get("steps", math.ceil(2 * num_sequences / batch))
    assert report.resolved is not None
    assert report.resolved["batchSequences"] == str(batch)
    assert report.resolved["batchTokens"] == str(32 * batch)
    assert report.resolved["totalSteps"] == str(steps)
    assert "fewer than the default 16384" in report.resolved["batchReason"]
    assert f"over {num_sequences} samples of an epoch" in report.resolved["batchReason"]
    assert f"{steps} steps of {batch} samples" in report.message
    estimate = report.data and report.data.estimate
    assert estimate is not None
    assert (estimate.steps, estimate.batch_sequences) == (steps, batch)
    assert estimate.batch_reason == report.resolved["batchReason"]


# ------------------------------------------------------------------------------------------------------------- nothing


@pytest.mark.parametrize("num_documents", [64, 199])
def test_documents_of_one_token_each_have_nothing_to_predict(place: Place, num_documents: int) -> None:
    report = prepare(place, steps=1)  # the end-of-document token is known from it
    assert report.data is not None
    end = place.dataset().info.eos_token_id
    put_ids(place, [[end]] * num_documents)
    with pytest.raises(UserError, match=rf"data\.train has {num_documents} documents of one token each") as caught:
        prepare(place, steps=1)
    assert caught.value.code == ExitCode.DATA_ERROR


@pytest.mark.parametrize(
    ("training", "field"),
    [
        ({"learningRate": 1e-13}, "learningRate 1e-13"),
        ({"learningRate": 1e-300}, "learningRate 1e-300"),
        ({"optimizer": {"maxGradNorm": 1e-20}}, r"optimizer\.maxGradNorm 1e-20"),
    ],
)
def test_a_rate_that_moves_no_weight_is_refused_with_what_to_do(
    place: Place, training: dict[str, Any], field: str
) -> None:
    with pytest.raises(UserError, match=rf"training\.{field}: .* write .*, or leave it out") as caught:
        prepare(place, steps=1, **training)
    assert caught.value.code == ExitCode.SPEC_ERROR


def test_a_low_rate_is_the_persons_to_choose(place: Place) -> None:
    assert prepare(place, steps=1, learningRate=1e-9, optimizer={"maxGradNorm": 1e-6}).reason == "Completed"


@pytest.mark.parametrize(("total_steps", "skipped"), [(1, 1), (3, 3), (5, 5), (1000, 5)])
def test_a_run_without_a_finite_step_fails_however_short_it_is(total_steps: int, skipped: int) -> None:
    state = TrainState()
    for _ in range(skipped - 1):
        count_non_finite(state, StepResult(math.nan, 1, 1.0, is_stop_requested=False), total_steps)
    with pytest.raises(UserError, match=f"not finite in {skipped} steps in a row") as caught:
        count_non_finite(state, StepResult(1.0, 1, math.inf, is_stop_requested=False), total_steps)
    assert caught.value.code == ExitCode.NON_FINITE
