"""Documents: text without labels, for objectives that learn the language itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runyard_trainer.contract import Recipe
from runyard_trainer.records.base import HELD_OUT_STREAMS, Example, RecordKind, Sample
from runyard_trainer.shards import Dataset, PackedSequence, Stream, pack
from runyard_trainer.sources import Row
from runyard_trainer.tokenizer import DocumentTokenizer


def parse_text(row: Row) -> str:
    """The document of a row."""
    return row.text("text")


@dataclass
class TextEncoder:
    """Each document's token ids and the end-of-document token."""

    tokenizer: DocumentTokenizer
    schema: None = None

    def encode(self, records: Sequence[str]) -> list[list[Example]]:
        """See `Encoder`."""
        return [
            [Example({"input_ids": token_ids}, len(text.encode()))]
            for text, token_ids in zip(records, self.tokenizer.encode(records), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        return {}


@dataclass(frozen=True)
class PackedText:
    """A stream of documents as sequences of one length."""

    stream: Stream
    length: int
    eos_token_id: int
    keep_tail: bool
    """Whether the last sequence may be padded."""

    def __len__(self) -> int:
        return self.stream.num_sequences(self.length, self.keep_tail)

    def __getitem__(self, index: int) -> Sample:
        return _to_sample(self.stream.sequence(index, self.length))

    @property
    def filler(self) -> Sample:
        """All padding."""
        nothing = np.empty(0, dtype=np.int64)
        return _to_sample(pack(nothing, nothing, self.length, self.eos_token_id))


def open_packed_text(dataset: Dataset, stream: str, recipe: Recipe) -> PackedText:
    """The sequences of a stream; only held-out text is measured to its last token."""
    length = recipe.training.sequence_length
    return PackedText(dataset.stream(stream), length, dataset.info.eos_token_id, stream in HELD_OUT_STREAMS)


def _to_sample(sequence: PackedSequence) -> Sample:
    return {"input_ids": sequence.input_ids, "position_ids": sequence.position_ids, "labels": sequence.labels}


KIND = RecordKind(
    parse=parse_text,
    identity=lambda text: text,
    to_json=lambda text: {"text": text},
    build_encoder=lambda tokenizer, _: TextEncoder(tokenizer),
    open_samples=open_packed_text,
)
