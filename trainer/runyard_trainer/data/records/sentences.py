"""Documents of sentences for the objective masked-lm-nsp: `sentences`, a list, or `text`, which is split here.

Text is split at empty lines, and behind . ! ? (and closing quotes) where white space follows and no small letter;
behind the full stops of Chinese and Japanese always. Who knows better writes `sentences`.

    document ─> chunks of at least two sentences, as many as fit ─> one row each: its first sentences, and the rest

A hash of the document and the chunk's number says how many sentences come first, and whether the pair's second text is
the rest, or else is from another document: for half of them. Such a chunk's rest begins the next chunk. Which text the
other document gives is a hash's to say too, once all of the stream is there: so a pair is the same in every epoch, and
no text is paired with one of another stream. It never is a document's beginning, as what truly goes on never is one.

A document of one sentence has no pair, and is left out; so is a last sentence that no chunk had room for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Encoding

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records import masked_text
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Example, RecordKind, Sample
from runyard_trainer.data.records.masked_text import (
    NOT_MASKED,
    check_tokenizer,
    describe_special_tokens,
    number_words,
    show_words,
)
from runyard_trainer.data.sources.rows import BadRecord, Row, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

NUM_SPECIAL_TOKENS = 3
"""[CLS] first [SEP] second [SEP]."""
IS_NEXT, IS_NOT_NEXT = 0, 1
"""As BERT has them."""

_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "word_ids": pa.list_(pa.int32()),
        "sentence_ends": pa.list_(pa.int32()),
        "num_first": pa.int32(),
        "is_next": pa.bool_(),
        "document": pa.int64(),
    }
)
_MAX_DRAWS = 16

_SENTENCE = re.compile(
    r"""\S.*?(?: [.!?…]+ ["'”’)\]]* (?= \s+ [^\sa-z] | \s*\Z )
             | [。！？]+ ["”’」』）]*
             | (?= \n\s*\n )
             | \s*\Z )""",
    re.VERBOSE | re.DOTALL,
)


# -------------------------------------------------------------------------------------------------------------- records


def parse_sentences(row: Row) -> tuple[str, ...]:
    """The document of a row: its sentences, none of them empty."""
    given = [name for name in ("text", "sentences") if name in row]
    if len(given) != 1:
        names = f"{row.name_of('text')!r} or {row.name_of('sentences')!r}"
        found = "both" if given else "neither"
        raise BadRecord(
            f"expected one of the fields {names}, found {found}: name it in columns.text or columns.sentences"
        )
    if given == ["text"]:
        return tuple(split_sentences(row.text("text")))
    name = row.name_of("sentences")
    value = row.fields[name]
    if not isinstance(value, list):
        raise BadRecord(
            f"field {name!r} is {name_of_type(value)}, not a list of sentences: text that is to be split belongs in "
            "columns.text"
        )
    sentences = (_to_sentence(item, name, i) for i, item in enumerate(value))
    return tuple(sentence for sentence in sentences if sentence)


def _to_sentence(value: object, name: str, number: int) -> str:
    if not isinstance(value, str):
        raise BadRecord(f"field {name!r} has {name_of_type(value)} at {number}: every sentence is a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRecord(f"field {name!r} has half of a surrogate pair in sentence {number}") from error
    return value.strip()


def split_sentences(text: str) -> Iterator[str]:
    """See the module; line breaks within a sentence become spaces."""
    for found in _SENTENCE.finditer(text):
        yield " ".join(found[0].split())


# ------------------------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True)
class _Sentence:
    token_ids: list[int]
    word_ids: list[int]


@dataclass
class SentencesEncoder:
    """Cuts documents into chunks of sentences."""

    tokenizer: DocumentTokenizer
    room: int
    """Tokens of a pair, special ones left out."""
    schema: pa.Schema = _SCHEMA

    def encode(self, records: Sequence[tuple[str, ...]]) -> list[list[Example]]:
        """See `Encoder`."""
        encoded = iter(self.tokenizer.encode_without_special(sentence for record in records for sentence in record))
        return [list(self._cut([next(encoded) for _ in record], " ".join(record))) for record in records]

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        return describe_special_tokens(self.tokenizer)

    def _cut(self, encodings: list[Encoding], text: str) -> Iterator[Example]:
        special = self.tokenizer.special_token_ids
        sentences = [_Sentence(each.ids, number_words(each, special)) for each in encodings if each.ids]
        document = _digest(text)
        start = number = 0
        while start + 1 < len(sentences):
            stop = self._fill(sentences, start)
            draw = _digest(f"{document}/{number}")
            num_first = 1 + (draw >> 1) % (stop - start - 1)
            is_next = draw & 1 == 0
            columns = _to_columns(sentences[start:stop])
            columns |= {"num_first": num_first, "is_next": is_next, "document": document - 2**63}
            is_truncated = is_next and len(columns["input_ids"]) > self.room
            yield Example(columns, len(text.encode()) if number == 0 else 0, is_truncated)
            start = stop if is_next else start + num_first
            number += 1

    def _fill(self, sentences: list[_Sentence], start: int) -> int:
        """Where the chunk ends that begins at `start`: two sentences at least."""
        ends = accumulate(len(sentence.token_ids) for sentence in sentences[start:])
        return start + max(2, sum(1 for _ in takewhile(lambda end: end <= self.room, ends)))


def _to_columns(sentences: list[_Sentence]) -> dict[str, Any]:
    token_ids: list[int] = []
    word_ids: list[int] = []
    ends: list[int] = []
    num_words = 0
    for sentence in sentences:
        token_ids += sentence.token_ids
        word_ids += [word if word == NOT_MASKED else num_words + word for word in sentence.word_ids]
        num_words += max(sentence.word_ids) + 1
        ends.append(len(token_ids))
    return {"input_ids": token_ids, "word_ids": word_ids, "sentence_ends": ends}


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> SentencesEncoder:
    check_tokenizer(tokenizer, recipe, "mask_token", "cls_token", "sep_token")
    return SentencesEncoder(tokenizer, recipe.training.sequence_length - NUM_SPECIAL_TOKENS)


# -------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class _Text:
    token_ids: NDArray[np.int64]
    word_ids: NDArray[np.int64]


@dataclass(frozen=True)
class SentencePairs:
    """The pairs of a stream, not yet masked."""

    examples: Examples
    cls_token_id: int
    sep_token_id: int
    room: int
    """Tokens of a pair, special ones left out."""

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        row = self.examples[index]
        split = int(row["sentence_ends"][row["num_first"] - 1])
        first = _read(row, 0, split)
        other = None if row["is_next"] else self.find_other(index)
        if other is None:
            return self._lay_out(first, _read(row, split, len(row["input_ids"])), IS_NEXT)
        return self._lay_out(first, self._begin_within(other, index, self.room - split), IS_NOT_NEXT)

    def find_other(self, index: int) -> dict[str, Any] | None:
        """A chunk of another document than this one's; None where all are of one."""
        document = self.examples[index]["document"]
        drawn = (_digest(f"{document}/{index}/{draw}") % len(self) for draw in range(_MAX_DRAWS))
        after = ((index + distance) % len(self) for distance in range(1, len(self)))
        for candidate in chain(drawn, after):
            if (row := self.examples[candidate])["document"] != document:
                return row
        return None

    def _begin_within(self, row: dict[str, Any], index: int, room: int) -> _Text:
        """Whole sentences from somewhere in a chunk, but not its first: at least one, more where there is room."""
        ends = row["sentence_ends"]
        start = 1 + _digest(f"{row['document']}/{index}") % (len(ends) - 1)
        begin = int(ends[start - 1])
        num_fitting = int(np.searchsorted(ends, begin + room, side="right"))
        return _read(row, begin, int(ends[max(start, num_fitting - 1)]))

    def _lay_out(self, first: _Text, second: _Text, label: int) -> Sample:
        keep_first, keep_second = fit_pair(len(first.token_ids), len(second.token_ids), self.room)
        cls, sep, not_masked = ([number] for number in (self.cls_token_id, self.sep_token_id, NOT_MASKED))
        num_words = first.word_ids.max(initial=0) + 1
        second_words = np.where(second.word_ids == NOT_MASKED, NOT_MASKED, num_words + second.word_ids)
        input_ids = np.concatenate([cls, first.token_ids[:keep_first], sep, second.token_ids[:keep_second], sep])
        word_ids = np.concatenate(
            [not_masked, first.word_ids[:keep_first], not_masked, second_words[:keep_second], not_masked]
        )
        return {
            "input_ids": input_ids,
            "word_ids": word_ids,
            "token_type_ids": (np.arange(len(input_ids)) >= keep_first + 2).astype(np.int64),
            "next_sentence_label": np.array(label, dtype=np.int64),
        }

    @property
    def filler(self) -> Sample:
        """One token, never masked, and no pair."""
        token = np.zeros(1, dtype=np.int64)
        return {
            "input_ids": token,
            "word_ids": np.full(1, NOT_MASKED, dtype=np.int64),
            "token_type_ids": token,
            "next_sentence_label": np.array(IGNORED, dtype=np.int64),
        }


def _read(row: dict[str, Any], start: int, stop: int) -> _Text:
    return _Text(row["input_ids"][start:stop], row["word_ids"][start:stop])


def fit_pair(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """How much to keep of two texts: the end of the longer one is cut until both fit."""
    if num_first + num_second <= room:
        return num_first, num_second
    if num_first <= room // 2:
        return num_first, room - num_first
    if num_second <= room // 2:
        return room - num_second, num_second
    return room - room // 2, room // 2


def open_sentence_pairs(dataset: Dataset, stream: str, recipe: Recipe) -> SentencePairs:
    """The pairs of a stream.

    Raises:
        UserError: DATA_ERROR where there is no second document to train with.
    """
    info = dataset.info
    assert info.cls_token_id is not None, "prepare refuses a tokenizer without one"
    assert info.sep_token_id is not None, "likewise"
    room = recipe.training.sequence_length - NUM_SPECIAL_TOKENS
    pairs = SentencePairs(dataset.examples(stream), info.cls_token_id, info.sep_token_id, room)
    if len(pairs) and stream not in HELD_OUT_STREAMS and pairs.find_other(0) is None:
        field = "data.train" if stream == "train" else "data.replay.sources"
        raise UserError(
            f"{field} has one document of two sentences or more: objective masked-lm-nsp pairs half of the texts with "
            "another document's. Give more documents: a text file is one, and so is a line of JSONL",
            ExitCode.DATA_ERROR,
        )
    return pairs


DEFINITION = (
    masked_text.DEFINITION.replace("in windows", "in pairs of texts")
    + " The mean of -ln p over the pairs, of whether the second text goes on from the first, is added."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_sentences,
    identity=" ".join,
    to_json=lambda sentences: {"sentences": list(sentences)},
    build_encoder=_build_encoder,
    open_samples=open_sentence_pairs,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=show_words,
)
