"""Words with a tag each: `tokens` and `tags`, in BIO (also called IOB2).

    tokens  Ada    Lovelace  was  born  in  London  .
    tags    B-PER  I-PER     O    O     O   B-LOC   O

The words are joined by single spaces and tokenized as a text, so that a model is trained on what it will see: texts. A
word's tag belongs to its first piece: the first token that ends within the word. The tags of a run are O, and B- and I-
of each kind of entity that the data names, in order of name.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Encoding

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Example, RecordKind, Sample, Shown
from runyard_trainer.data.sources.rows import BadRecord, Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

OUTSIDE = "O"
"""The tag of a word that belongs to no entity."""

NOWHERE = -1
"""The first piece of a word that has none: the sequence length cut it, or the tokenizer makes nothing of it."""

_TAG = re.compile(r"O|[BI]-.+")
_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "token_type_ids": pa.list_(pa.int32()),
        "first_pieces": pa.list_(pa.int32()),
        "tags": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class TaggedWords:
    """A text in words, and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words joined by single spaces."""
        return " ".join(self.words)

    def to_json(self) -> dict[str, Any]:
        """Return the record as a row of JSONL."""
        return {"tokens": list(self.words), "tags": list(self.tags)}


def parse_tagged_words(row: Row) -> TaggedWords:
    """Read the words of a row and their tags, see the module; raises BadRecord."""
    words, tags = row.texts("tokens"), row.texts("tags")
    tokens_name, tags_name = row.name_of("tokens"), row.name_of("tags")
    if len(words) != len(tags):
        raise BadRecord(
            f"field {tokens_name!r} has {len(words)} words and field {tags_name!r} has {len(tags)} tags: "
            "give each word a tag"
        )
    for place, word in enumerate(words):
        if not word.strip():
            raise BadRecord(f"field '{tokens_name}[{place}]' is {word!r}: leave out words without a character")
    for place, (before, tag) in enumerate(zip([OUTSIDE, *tags], tags, strict=False)):
        _check_tag(before, tag, f"{tags_name}[{place}]")
    return TaggedWords(tuple(words), tuple(tags))


def _check_tag(before: str, tag: str, name: str) -> None:
    if not _TAG.fullmatch(tag):
        raise BadRecord(
            f"field {name!r} is {tag!r}: write O, or B- and the kind of entity at its first word and I- at its others"
        )
    kind = tag[2:]
    if tag.startswith("I-") and before[2:] != kind:
        raise BadRecord(f"field {name!r} is {tag!r} after {before!r}: an entity begins with 'B-{kind}'")


def find_first_pieces(encoding: Encoding, words: Sequence[str]) -> list[int]:
    """Return the place of each word's first token in an encoding of the words joined by spaces; NOWHERE if there is
    none.
    """
    stops = list(accumulate((len(word) + 1 for word in words), initial=-1))[1:]
    first_pieces = [NOWHERE] * len(words)
    for place, ((start, stop), is_special) in enumerate(
        zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
    ):
        if is_special or start == stop:
            continue
        last = stop - 1  # byte-level tokens count the space before a word as theirs, so where they begin tells little
        word = bisect_right(stops, last)
        if last >= stops[word] - len(words[word]) and first_pieces[word] == NOWHERE:
            first_pieces[word] = place
    return first_pieces


@dataclass
class TaggedWordsEncoder:
    """Encodes words as a text, laid out by the model's own tokenizer, cut to the sequence length."""

    tokenizer: DocumentTokenizer
    length: int
    schema: pa.Schema = _SCHEMA
    kinds: set[str] = field(default_factory=set)
    """Every kind of entity seen so far."""

    def encode(self, records: Sequence[TaggedWords]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        for record in records:
            self.kinds.update(tag[2:] for tag in record.tags if tag != OUTSIDE)
        encodings = self.tokenizer.encode_inputs([record.text for record in records], self.length)
        return [self._to_examples(record, encoding) for record, encoding in zip(records, encodings, strict=True)]

    def _to_examples(self, record: TaggedWords, encoding: Encoding) -> list[Example]:
        first_pieces = find_first_pieces(encoding, record.words)
        if set(first_pieces) == {NOWHERE}:
            return []
        columns = {
            "input_ids": encoding.ids,
            "token_type_ids": self.tokenizer.type_ids(encoding),
            "first_pieces": first_pieces,
            "tags": list(record.tags),
        }
        return [Example(columns, len(record.text.encode()), is_truncated=bool(encoding.overflowing))]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        if not self.kinds:
            raise UserError("data.train: every tag is O: give texts with entities too", ExitCode.DATA_ERROR)
        return {"labels": [OUTSIDE, *(f"{side}-{kind}" for kind in sorted(self.kinds) for side in "BI")]}


@dataclass(frozen=True)
class TaggedTexts:
    """The samples of a stream, with tags as numbers."""

    examples: Examples
    label_ids: dict[str, int]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        example = self.examples[index]
        tags = np.array([self.label_ids[tag] for tag in example.pop("tags")], dtype=np.int64)
        return {**example, "tags": tags, "labels": self._to_labels(example, tags)}

    def _to_labels(self, example: dict[str, Any], tags: Any) -> Any:
        labels = np.full(len(example["input_ids"]), IGNORED, dtype=np.int64)
        is_seen = example["first_pieces"] != NOWHERE
        labels[example["first_pieces"][is_seen]] = tags[is_seen]
        return labels

    @property
    def filler(self) -> Sample:
        """A text of one token, without a tag."""
        token, nothing = np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int64)
        labels = np.full(1, IGNORED, dtype=np.int64)
        return {
            "input_ids": token,
            "token_type_ids": token,
            "first_pieces": nothing,
            "tags": nothing,
            "labels": labels,
        }


def open_tagged_texts(dataset: Dataset, stream: str, _: Recipe) -> TaggedTexts:
    """Open the samples of a stream."""
    return TaggedTexts(dataset.examples(stream), {label: i for i, label in enumerate(dataset.info.labels)})


def show_tags(columns: dict[str, Any]) -> Shown:
    """Show the tokens that are tagged, and their tags."""
    spans = [(place, place + 1) for place in columns["first_pieces"] if place != NOWHERE]
    return Shown(spans, " ".join(columns["tags"]))


DEFINITION = (
    "The words of each record are joined by single spaces, tokenized as a text, special tokens and all, and cut to "
    "sequenceLength tokens. A word's tag is predicted at the first token that ends within it; words behind the cut "
    "count as tagged O. The loss is the mean cross-entropy over the words that are left, in nats. Entities are "
    "counted by seqeval, in its default mode."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_tagged_words,
    identity=lambda record: record.text,
    to_json=TaggedWords.to_json,
    build_encoder=lambda tokenizer, recipe: TaggedWordsEncoder(tokenizer, recipe.training.sequence_length),
    open_samples=open_tagged_texts,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=show_tags,
)
