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
"""By name: int64 arrays that become tensors, those as long as `input_ids` belonging to its tokens, and beside them
whatever it takes to judge what was predicted."""


@dataclass(frozen=True)
class Example:
    """What a record becomes: a row of a stream."""

    columns: dict[str, Any]
    """By the names of the encoder's schema; `input_ids` is one."""
    text_bytes: int
    """UTF-8 bytes of its text."""
    is_truncated: bool = False
    """Whether the sequence length cut it."""


class Encoder(Protocol):
    """Makes examples of records, many at a time: tokenizers are quicker then."""

    schema: pa.Schema | None
    """Of the examples; None: they are token ids alone, and lie in token shards."""

    def encode(self, records: Sequence[Any]) -> list[list[Example]]:
        """Return the examples of each record; none where nothing of it would be trained on."""

    def describe(self) -> dict[str, Any]:
        """Return what all records together have shown, as fields of DatasetInfo; called after the last record."""


class Samples(Protocol):
    """What the places of a step are filled with: a sequence, a record, or several packed together."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    @property
    def filler(self) -> Sample:
        """A short sample that goes through the model and weighs nothing."""


@dataclass(frozen=True)
class Shown:
    """What of an example is learned, for people."""

    spans: list[tuple[int, int]]
    """Starts and ends of the tokens of `input_ids` that the loss is taken over."""
    target: str = ""
    """What is learned instead, such as a class."""


@dataclass(frozen=True)
class RecordKind:
    """One kind of record, and what is done with it."""

    definition: str
    """How held-out records are laid out and measured, for eval.json."""
    parse: Callable[[Row], Any]
    """The record that a row holds; raises BadRecord."""
    identity: Callable[[Any], str]
    """The text that makes two records the same: held out together, and empty where there is nothing to learn from."""
    to_json: Callable[[Any], dict[str, Any]]
    """A held-out record, as a person can read it."""
    build_encoder: Callable[[DocumentTokenizer, Recipe], Encoder]
    open_samples: Callable[[Dataset, str, Recipe], Samples]
    """The samples of a stream of a prepared dataset."""
    depends_on: Callable[[Recipe], dict[str, Any]] = field(default=lambda _: {})
    """What of the recipe the examples depend on: a part of the dataset's key."""
    split_samples: Callable[[Samples, StreamInfo, Recipe], list[int]] = field(
        default=lambda _samples, info, _recipe: [source.documents for source in info.by_source]
    )
    """How many samples of a stream are of each source, in order: as many as examples, where nothing else is said."""
    show: Callable[[dict[str, Any]], Shown] = field(default=lambda columns: Shown([(0, len(columns["input_ids"]))]))
    """What is learned of an example with these columns: all of its tokens, where a kind says nothing else."""
    tokenizer_text: Callable[[Any], str] | None = None
    """What of a record a new tokenizer learns from; None: its identity. Raises UserError where that cannot be."""
