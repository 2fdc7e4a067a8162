"""The report page and the model card, rendered from values alone."""

from __future__ import annotations

import dataclasses
import math
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
import yaml
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Fertility, Losses
from runyard_trainer.data.dataset.token_shards import StreamInfo
from runyard_trainer.export.continuations import Continuation
from runyard_trainer.export.report import (
    RunSummary,
    TrainedRun,
    format_count,
    format_number,
    render_card,
    render_report,
)

BEFORE = Losses(domain_loss=5.5, domain_bits_per_byte=2.6, general_loss=3.25, general_bits_per_byte=1.25)
AFTER = Losses(domain_loss=3.25, domain_bits_per_byte=1.5, general_loss=3.5, general_bits_per_byte=1.375)


def build_summary(before: Losses | None = BEFORE, after: Losses = AFTER) -> RunSummary:
    recipe = Recipe.model_validate(
        {
            "model": {"uri": "s3://models/general/model"},
            "data": {
                "train": [{"uri": "s3://text/code/"}],
                "replay": {"fraction": 0.05, "sources": [{"uri": "s3://text/general/"}]},
            },
            "training": {"steps": 300, "sequenceLength": 256, "batchSequences": 16, "learningRate": 1e-3},
            "output": {"uri": "s3://models/code"},
        }
    )
    steps = range(1, 301)
    losses = [3 + 2.5 * math.exp(-i / 60) + 0.1 * math.sin(i * 7.3) for i in steps]
    times = [f"2026-01-01T00:{i // 60:02}:{i % 60:02}.000Z" for i in steps]
    rows = [f"{i},{losses[i - 1]},{1e-3 * (1 - i / 320)},{times[i - 1]}" for i in steps]
    lengths = {"p50": 900, "p90": 3000, "p99": 12_000, "max": 40_000}
    return RunSummary(
        name="code",
        recipe=recipe,
        trained=TrainedRun(
            before=before,
            after=after,
            steps=300,
            tokens=1_228_800,
            precision="fp32",
            metrics_csv="\n".join(["step,loss,learning_rate,time", *rows]) + "\n",
            resolved={"training.microBatch": "4", "training.learningRate": "0.001"},
        ),
        attempts=2,
        processes=4,
        accelerator=None,
        num_parameters=1_385_000,
        num_trained=1_385_000,
        num_labels=0,
        num_new_tokens=0,
        num_rows=8000,
        streams={
            "train": StreamInfo(documents=412, tokens=1_800_000, bytes=6_000_000, document_tokens=lengths),
            "replay": StreamInfo(documents=5000, tokens=900_000, bytes=3_900_000, document_tokens=lengths),
            "validation": StreamInfo(documents=9, tokens=40_000, bytes=130_000, document_tokens=lengths),
            "general": StreamInfo(documents=90, tokens=41_000, bytes=180_000, document_tokens=lengths),
        },
        continuations=[
            Continuation("def close(self):\n    <script>", '\n        """Close & flush."""\n        self._fp.close()')
        ],
        lineage={
            "run": {"name": "code", "namespace": "default", "uid": "0b1d", "attempts": 2, "processes": 4},
            "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).isoformat(),
            "recipe": recipe.model_dump(mode="json", by_alias=True, exclude_none=True),
            "dataset": {"uri": "s3://models/.runyard/default/prepared/ab/dataset.json", "sha256": "ab" * 32},
            "source": {"uri": "s3://models/general/model", "lineage": {"run": {"name": "general"}}},
            "versions": {"python": "3.11.2", "torch": "2.15.0"},
        },
        model_uri="s3://models/code/model",
    )


class _Page(HTMLParser):
    """Which elements a page has, its links to elsewhere, and whether every element is closed in order."""

    VOID = frozenset({"meta", "br", "img", "link", "path", "use"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.elements: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)


def test_the_page_is_well_formed_and_loads_and_runs_nothing() -> None:
    html = render_report(build_summary())
    page = _Page(html)
    assert page.open == []
    assert "svg" in page.elements
    assert not page.elements & {"script", "link", "img", "iframe", "object"}
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_page_escapes_what_comes_from_data() -> None:
    html = render_report(build_summary())
    assert "&lt;script&gt;" in html
    assert "Close &amp; flush" in html


def test_the_page_tells_better_and_worse_by_word_and_not_by_colour_alone() -> None:
    html = render_report(build_summary())
    assert '<span class="better">−2.250</span> <span class="word better">better</span>' in html
    assert '<span class="worse">+0.250</span> <span class="word worse">worse</span>' in html


@pytest.mark.parametrize(
    ("tasks", "want"),
    [
        (None, "Lower is better in every row."),
        ({"exam": {"accuracy": 0.5}}, "Losses are better lower, the other measures higher."),
    ],
    ids=["losses alone", "with a task"],
)
def test_the_page_says_which_rows_are_better_lower(tasks: dict[str, dict[str, float]] | None, want: str) -> None:
    assert want in render_report(build_summary(after=AFTER.model_copy(update={"tasks": tasks})))


def test_page_and_card_tell_how_finely_held_out_text_is_cut() -> None:
    summary = build_summary()
    told = Fertility(tokens_per_word=1.625, bytes_per_token=3.25)
    cut = summary.streams["validation"].model_copy(update={"fertility": told})
    summary = dataclasses.replace(summary, streams=dict(summary.streams) | {"validation": cut})
    assert '<td class="num">1.625</td><td class="num">3.250</td>' in render_report(summary)
    assert "| validation | 9 | 40,000 | 130,000 | 1.625 | 3.250 |" in render_card(summary)
    assert "| train | 412 | 1.8 million | 6 million | – | – |" in render_card(summary)


def test_the_same_run_gives_the_same_page() -> None:
    assert render_report(build_summary()) == render_report(build_summary())


@pytest.mark.parametrize("before", [None, BEFORE], ids=["not measured before", "measured before"])
def test_the_page_and_card_render_without(before: Losses | None) -> None:
    bare = build_summary(before=before)
    trained = dataclasses.replace(
        bare.trained, metrics_csv="step,loss\n", after=Losses(domain_loss=2.0, domain_bits_per_byte=1.0)
    )
    summary = dataclasses.replace(bare, trained=trained, continuations=[], lineage={**bare.lineage, "source": None})
    html, card = render_report(summary), render_card(summary)
    assert "<svg" not in html
    assert "random weights" in html
    assert "General" not in html
    assert "GPU-hours" not in html
    assert "| Domain | loss, nats per token |" in card


def test_gpu_hours_are_gpus_times_training_time() -> None:
    summary = dataclasses.replace(build_summary(), accelerator="NVIDIA H100", processes=16)
    assert summary.gpu_hours(450.0) == pytest.approx(2.0)
    assert "GPU-hours" in render_report(summary)


def test_the_card_has_front_matter_a_table_and_how_to_load() -> None:
    card = render_card(build_summary())
    _, front_matter, body = card.split("---\n", 2)
    assert yaml.safe_load(front_matter) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["runyard", "continued-pre-training"],
    }
    assert "| Domain | loss, nats per token | 5.500 | 3.250 | −2.250 |" in body
    assert "AutoModelForCausalLM.from_pretrained" in body
    assert "`s3://text/general/` (replay; 5 % of the sequences, all replay together)" in body
    assert "| learning rate | 0.001, cosine, warm-up 1 % |" in body


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (format_count(12_345), "12,345"),
        (format_count(1_385_000), "1.39 million"),
        (format_number(-2.25, sign=True), "−2.250"),
        (format_number(244.69), "244.7"),
        (format_number(None), "–"),
    ],
)
def test_numbers_read_as_people_write_them(text: str, want: str) -> None:
    assert text == want


def test_page_and_card_tell_what_was_chosen_left_out_and_weighed() -> None:
    summary = build_summary()
    data = {
        "train": [{"uri": "s3://text/code/", "weight": 0.5}, {"uri": "s3://text/more/"}],
        "select": {
            "method": "combined",
            "fraction": 0.1,
            "target": [{"uri": "s3://tasks/a/"}, {"uri": "s3://tasks/b/"}],
            "reference": [{"uri": "s3://text/general/"}],
        },
    }
    recipe = Recipe.model_validate({**summary.recipe.model_dump(by_alias=True, exclude_none=True), "data": data})
    left_out = {"duplicate": 12, "noise": 400, "notSelected": 3200}
    train = summary.streams["train"].model_copy(update={"left_out": left_out})
    summary = dataclasses.replace(summary, recipe=recipe, streams={**summary.streams, "train": train})
    assert (
        "Of <em>train</em>, left out or cut: 12 duplicate, 400 left out as noise by data.select, 3,200 not chosen by "
        "data.select." in render_report(summary)
    )
    card = render_card(summary)
    assert (
        "\nOf train, left out or cut: 12 duplicate, 400 left out as noise by data.select, 3,200 not chosen by" in card
    )
    listed = card.partition("## What it was trained on\n\n")[2].partition("\n\n|")[0]
    assert listed.strip().splitlines() == [
        "- `s3://text/code/` (each sample 0.5 times an epoch)",
        "- `s3://text/more/`",
        "- of these, 10 % of the documents, as `data.select` chose them by `combined`; its target: `s3://tasks/a/`, `s3://tasks/b/`",
    ]
