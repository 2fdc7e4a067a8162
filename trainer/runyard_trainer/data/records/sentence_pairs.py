"""The pairs of texts that chunks of sentences become: half of them go on, half are from two documents.

    chunk ─(open_sentence_pairs)─> [CLS] its first sentences [SEP] the rest, or another document's sentences [SEP]

Which text the other document gives is decided by a hash, once the whole stream is there: a pair is the same in every
epoch, and no text is paired with one of another stream. It never is a document's beginning, as what truly goes on never
is one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Sample
from runyard_trainer.data.records.masked_text import NOT_MASKED

NUM_SPECIAL_TOKENS = 3
"""[CLS] first [SEP] second [SEP]."""
IS_NEXT, IS_NOT_NEXT = 0, 1
"""The labels of pairs, as BERT numbers them."""

_MAX_DRAWS = 16


@dataclass(frozen=True)
class _Text:
    token_ids: NDArray[np.int64]
    word_ids: NDArray[np.int64]


@dataclass(frozen=True)
class SentencePairs:
    """The samples of a stream: its pairs, not yet masked."""

    examples: Examples
    cls_token_id: int
    sep_token_id: int
    room: int
    """The most tokens of a pair, special ones left out."""

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
        """Find a chunk of another document than this one's; None where all are of one."""
        document = self.examples[index]["document"]
        drawn = (digest(f"{document}/{index}/{draw}") % len(self) for draw in range(_MAX_DRAWS))
        after = ((index + distance) % len(self) for distance in range(1, len(self)))
        for candidate in chain(drawn, after):
            if (row := self.examples[candidate])["document"] != document:
                return row
        return None

    def _begin_within(self, row: dict[str, Any], index: int, room: int) -> _Text:
        """Return whole sentences from within a chunk, never its first: at least one, more where there is room."""
        ends = row["sentence_ends"]
        start = 1 + digest(f"{row['document']}/{index}") % (len(ends) - 1)
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
        """A text of one token, never masked, and no pair."""
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
    """Return how many tokens to keep of each of two texts: the end of the longer one is cut until both fit."""
    if num_first + num_second <= room:
        return num_first, num_second
    if num_first <= room // 2:
        return num_first, room - num_first
    if num_second <= room // 2:
        return room - num_second, num_second
    return room - room // 2, room // 2


def open_sentence_pairs(dataset: Dataset, stream: str, recipe: Recipe) -> SentencePairs:
    """Open the pairs of a stream.

    Raises:
        UserError: DATA_ERROR where there is no second document to train with.
    """
    info = dataset.info
    assert info.cls_token_id is not None, "prepare refuses a tokenizer without one"
    assert info.sep_token_id is not None, "prepare refuses a tokenizer without one"
    room = recipe.training.sequence_length - NUM_SPECIAL_TOKENS
    pairs = SentencePairs(dataset.examples(stream), info.cls_token_id, info.sep_token_id, room)
    if len(pairs) and stream not in HELD_OUT_STREAMS and pairs.find_other(0) is None:
        field = "data.train" if stream == "train" else "data.replay.sources"
        raise UserError(
            f"{field} has one document of two sentences or more: objective {recipe.objective} pairs half of the texts "
            "with another document's. Give more documents: a text file is one, and so is a line of JSONL",
            ExitCode.DATA_ERROR,
        )
    return pairs


def digest(text: str) -> int:
    """Return 64 bits that a text decides: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
