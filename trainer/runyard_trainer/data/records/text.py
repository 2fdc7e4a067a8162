"""Documents: text without labels, for objectives that learn the language itself; or their token ids, made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.dataset.token_shards import PackedSequence, Stream, pack
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Example, RecordKind, Sample, Samples
from runyard_trainer.data.records.unread import is_nothing
from runyard_trainer.data.sources.rows import BadRecord, Row, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

BEDROCK_FIELD = "input"
"""Amazon Bedrock's name for the text of a record to continue pre-training with."""

_NO_DOCUMENT = ("instruction", "output", "prompt", "completion", "messages", "preferred_output")
_ALL_ONES = ("attention_mask", "loss_mask", "completion_mask", "assistant_masks")


@dataclass(frozen=True)
class TokenIds:
    """A document that came as token ids, with or without the end-of-document token."""

    ids: tuple[int, ...]
    place: str
    """The URI it was read from, with the line where there are several."""


Document = str | TokenIds


def parse_text(row: Row) -> str:
    """Read a row's text: `text`, or Bedrock's `input` where neither that nor an answer is there; raises BadRecord."""
    name = row.name_of("text")
    if name not in row.fields and name == Columns().text and BEDROCK_FIELD in row.fields:
        lost = [field for field in _NO_DOCUMENT if not is_nothing(row.fields.get(field))]
        if lost:
            raise BadRecord(
                f"fields {BEDROCK_FIELD!r} and {lost[0]!r} are there, which is no document: learn answers with "
                "objective sft, or name the field that holds the text in columns.text"
            )
        row = replace(row, columns=row.columns.model_copy(update={"text": BEDROCK_FIELD}))
    return row.text("text")


def parse_document(row: Row) -> Document:
    """Read the document of a row: its text, or `input_ids`; raises BadRecord."""
    text_name, ids_name = row.name_of("text"), row.name_of("input_ids")
    if ids_name not in row.fields:
        return parse_text(row)
    if text_name in row.fields:
        raise BadRecord(f"both {text_name!r} and {ids_name!r} are there, and only one can be learned: remove one")
    ids = _check_ids(row.fields[ids_name], ids_name)
    _check_all_are_learned(row, ids)
    return TokenIds(ids, row.place)


def _check_all_are_learned(row: Row, ids: tuple[int, ...]) -> None:
    """Refuse the masks and the padding that data made for other trainers has beside the ids."""
    beside = {name: value for name, value in row.fields.items() if isinstance(value, list) and len(value) == len(ids)}
    for name in _ALL_ONES:
        if any(item != 1 for item in beside.get(name, ())):
            raise BadRecord(f"field {name!r} leaves out some token ids, and all are learned: leave them out of the ids")
    if tuple(beside.get("labels", ids)) != ids:
        raise BadRecord(
            "field 'labels' differs from the token ids, and all of these are learned: to learn answers alone, give "
            "text to objective sft; otherwise remove the field"
        )


def _check_ids(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not a list of token ids")
    if not value:
        raise BadRecord(f"field {name!r} is an empty list: leave the row out")
    for i, item in enumerate(value):
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            shown = item if isinstance(item, int | float) else name_of_type(item)
            raise BadRecord(f"field {name!r} has {shown} at place {i}: token ids are whole numbers from 0")
    return tuple(value)


def text_to_learn(document: Document) -> str:
    """Return the text that a new tokenizer learns from."""
    if isinstance(document, TokenIds):
        raise UserError(
            f"{document.place}: the text is tokenized already, so no tokens can be learned from it: name the tokenizer "
            "that made the ids in model.scratch.tokenizer.uri, or leave model.extendVocabulary away",
            ExitCode.DATA_ERROR,
        )
    return document


def identity_of(document: Document) -> str:
    """Return the text, or the ids as a text of numbers."""
    return " ".join(map(str, document.ids)) if isinstance(document, TokenIds) else document


def document_to_json(document: Document) -> dict[str, Any]:
    """Return a document as a row of JSONL."""
    return {"input_ids": list(document.ids)} if isinstance(document, TokenIds) else {"text": document}


def encode_documents(tokenizer: DocumentTokenizer, documents: Sequence[Document]) -> list[tuple[list[int], int]]:
    """Return each document's token ids with the end-of-document token, and the UTF-8 bytes of its text."""
    texts = [document for document in documents if isinstance(document, str)]
    encoded = iter(zip(texts, tokenizer.encode(texts), strict=True))
    found = []
    for document in documents:
        if isinstance(document, TokenIds):
            found.append((_finish_ids(tokenizer, document), len(tokenizer.decode(document.ids).encode())))
        else:
            text, token_ids = next(encoded)
            found.append((token_ids, len(text.encode())))
    return found


def _finish_ids(tokenizer: DocumentTokenizer, document: TokenIds) -> list[int]:
    if (largest := max(document.ids)) >= tokenizer.vocab_size:
        raise UserError(
            f"{document.place}: token id {largest} is beyond the {tokenizer.vocab_size} tokens of the run's tokenizer: "
            "make the ids with the tokenizer of the model, or give the text itself",
            ExitCode.DATA_ERROR,
        )
    end = tokenizer.eos_token_id
    return [*document.ids] if document.ids[-1] == end else [*document.ids, end]


@dataclass
class TextEncoder:
    """Encodes each document as its token ids and the end-of-document token."""

    tokenizer: DocumentTokenizer
    schema: None = None

    def encode(self, records: Sequence[Document]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        return [
            [Example({"input_ids": token_ids}, num_bytes)]
            for token_ids, num_bytes in encode_documents(self.tokenizer, records)
        ]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        return {}


@dataclass(frozen=True)
class PackedText:
    """The samples of a stream of documents: sequences of one length."""

    stream: Stream
    length: int
    eos_token_id: int
    keep_tail: bool
    """Whether the last sequence may be padded."""

    def __len__(self) -> int:
        return self.stream.num_sequences(self.length, self.keep_tail)

    def __getitem__(self, index: int) -> Sample:
        return to_sample(self.stream.sequence(index, self.length))

    @property
    def filler(self) -> Sample:
        """A sequence of padding."""
        nothing = np.empty(0, dtype=np.int64)
        return to_sample(pack(nothing, nothing, self.length, self.eos_token_id))


def open_packed_text(dataset: Dataset, stream: str, recipe: Recipe) -> PackedText:
    """Open the sequences of a stream; only held-out text is measured to its last token."""
    length = recipe.training.sequence_length
    return PackedText(dataset.stream(stream), length, dataset.info.eos_token_id, stream in HELD_OUT_STREAMS)


def to_sample(sequence: PackedSequence) -> Sample:
    """Return a sequence as the model reads it."""
    return {"input_ids": sequence.input_ids, "position_ids": sequence.position_ids, "labels": sequence.labels}


def split_packed_text(samples: Samples, info: StreamInfo, recipe: Recipe) -> list[int]:
    """Count the sequences of each source; one with text of two sources belongs to the one that it begins with."""
    ends = np.cumsum([0, *(source.tokens for source in info.by_source)])
    starts = np.minimum(-(-ends // recipe.training.sequence_length), len(samples))
    return [int(size) for size in np.diff(starts)]


DEFINITION = (
    "Each document of `text` is tokenized without adding special tokens and gets one end-of-document token; the "
    "documents are laid one after the other and cut every sequenceLength tokens, the last window padded. Position ids "
    "restart at the start of each document and window (no attention mask, no cache), so that no token attends to or is "
    "predicted from another document. A loss is the mean of -ln p over the predicted tokens, in nats; bits per byte "
    "are loss x tokens / (ln 2 x bytes)."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_document,
    identity=identity_of,
    to_json=document_to_json,
    build_encoder=lambda tokenizer, _: TextEncoder(tokenizer),
    open_samples=open_packed_text,
    tokenizer_text=text_to_learn,
    split_samples=split_packed_text,
)
