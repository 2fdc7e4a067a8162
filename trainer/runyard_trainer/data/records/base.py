"""What every kind of record offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.sources.rows import Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

HELD_OUT_STREAMS = ("validation", "general")

Sample = dict[str, Any]
"""One sample of a step, by name: int64 arrays that become tensors, those as long as `input_ids` with a value for each
token; and whatever else `Objective.observe` needs of it."""


@dataclass(frozen=True)
class Example:
    """A row of a stream, made of a record."""

    columns: dict[str, Any]
    """Values by the names of the encoder's schema; `input_ids` is one."""
    text_bytes: int
    """UTF-8 bytes of its text."""
    is_truncated: bool = False
    """Whether the text was cut to the sequence length."""


class Encoder(Protocol):
    """Makes examples of records, many at a time, which tokenizers do faster."""

    schema: pa.Schema | None
    """The columns of the examples; None: token ids alone, kept in token shards."""

    def encode(self, records: Sequence[Any]) -> list[list[Example]]:
        """Return the examples of each record; none where nothing of it would be trained on."""

    def describe(self) -> dict[str, Any]:
        """Return what all records together have shown, as fields of DatasetInfo; called after the last record."""


class Samples(Protocol):
    """The samples of a stream: each is a sequence, a record, or several records packed together."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    @property
    def filler(self) -> Sample:
        """A short sample that goes through the model and weighs nothing."""


@dataclass(frozen=True)
class Shown:
    """What is learned of an example, for the preview."""

    spans: list[tuple[int, int]]
    """Starts and ends of the runs of `input_ids` that the loss is taken over."""
    target: str = ""
    """What is learned instead of tokens, such as a class."""


@dataclass(frozen=True)
class RecordKind:
    """One kind of record: how it is read, encoded and sampled."""

    definition: str
    """How held-out records are laid out and measured, for eval.json."""
    parse: Callable[[Row], Any]
    """Reads the record that a row holds; raises BadRecord."""
    identity: Callable[[Any], str]
    """Returns the text by which two records are the same, so held out together; empty: there is nothing to learn."""
    to_json: Callable[[Any], dict[str, Any]]
    """Returns a held-out record as a row of JSONL that a person can read."""
    build_encoder: Callable[[DocumentTokenizer, Recipe], Encoder]
    open_samples: Callable[[Dataset, str, Recipe], Samples]
    """Opens the samples of a stream of a prepared dataset."""
    depends_on: Callable[[Recipe], dict[str, Any]] = field(default=lambda _: {})
    """Returns the settings that the examples depend on: a part of the dataset's key."""
    split_samples: Callable[[Samples, StreamInfo, Recipe], list[int]] = field(
        default=lambda _samples, info, _recipe: [source.documents for source in info.by_source]
    )
    """Counts the samples of each source of a stream, in order. Absent: a sample for each example."""
    show: Callable[[dict[str, Any]], Shown] = field(default=lambda columns: Shown([(0, len(columns["input_ids"]))]))
    """Returns what is learned of an example with these columns. Absent: all of its tokens."""
    tokenizer_text: Callable[[Any], str] | None = None
    """Returns the text that a new tokenizer learns from, or raises UserError. Absent: the identity."""
