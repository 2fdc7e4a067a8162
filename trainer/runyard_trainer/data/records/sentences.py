"""Documents of sentences for the objective masked-lm-nsp: `sentences`, a list, or `text`, which is split here.

Text is split at empty lines, and behind . ! ? (and closing quotes) where white space follows and no small letter;
behind the full stops of Chinese and Japanese always. Where that is wrong, give `sentences`.

    document ─> chunks of at least two sentences, as many as fit ─> one row each: its first sentences, and the rest

A hash of the document and the chunk's number decides how many sentences come first, and whether the second text of the
pair is the rest or, for half of the chunks, from another document (`sentence_pairs`). Then the rest begins the next
chunk.

A document of one sentence has no pair, and is left out; so is a last sentence that no chunk had room for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import pyarrow as pa
from tokenizers import Encoding

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records import masked_text
from runyard_trainer.data.records.base import Example, RecordKind
from runyard_trainer.data.records.masked_text import (
    NOT_MASKED,
    check_tokenizer,
    describe_special_tokens,
    number_words,
    show_words,
)
from runyard_trainer.data.records.sentence_pairs import NUM_SPECIAL_TOKENS, digest, open_sentence_pairs
from runyard_trainer.data.sources.rows import BadRecord, Row, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

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
_SENTENCE = re.compile(
    r"""\S.*?(?: [.!?…]+ ["'”’)\]]* (?= \s+ [^\sa-z] | \s*\Z )
             | [。！？]+ ["”’」』）]*
             | (?= \n\s*\n )
             | \s*\Z )""",
    re.VERBOSE | re.DOTALL,
)


# -------------------------------------------------------------------------------------------------------------- records


def parse_sentences(row: Row) -> tuple[str, ...]:
    """Read the document of a row as sentences, none of them empty; raises BadRecord."""
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
    """Split a text as the module says; line breaks within a sentence become spaces."""
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
    """The most tokens of a pair, special ones left out."""
    schema: pa.Schema = _SCHEMA

    def encode(self, records: Sequence[tuple[str, ...]]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        encoded = iter(self.tokenizer.encode_without_special(sentence for record in records for sentence in record))
        return [list(self._cut([next(encoded) for _ in record], " ".join(record))) for record in records]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        return describe_special_tokens(self.tokenizer)

    def _cut(self, encodings: list[Encoding], text: str) -> Iterator[Example]:
        special = self.tokenizer.special_token_ids
        sentences = [_Sentence(each.ids, number_words(each, special)) for each in encodings if each.ids]
        document = digest(text)
        start = number = 0
        while start + 1 < len(sentences):
            stop = self._fill(sentences, start)
            draw = digest(f"{document}/{number}")
            num_first = 1 + (draw >> 1) % (stop - start - 1)
            is_next = draw & 1 == 0
            columns = _to_columns(sentences[start:stop])
            columns |= {"num_first": num_first, "is_next": is_next, "document": document - 2**63}
            is_truncated = is_next and len(columns["input_ids"]) > self.room
            yield Example(columns, len(text.encode()) if number == 0 else 0, is_truncated)
            start = stop if is_next else start + num_first
            number += 1

    def _fill(self, sentences: list[_Sentence], start: int) -> int:
        """Return where the chunk ends that begins at `start`: two sentences at least."""
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


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> SentencesEncoder:
    check_tokenizer(tokenizer, recipe, "mask_token", "cls_token", "sep_token")
    return SentencesEncoder(tokenizer, recipe.training.sequence_length - NUM_SPECIAL_TOKENS)


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
