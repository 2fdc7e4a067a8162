"""Pairs of answers to the same prompt, the better one and the worse one.

    prompt, chosen, rejected                              texts, or all three chats
    input {messages}, preferred_output,
    non_preferred_output                                  chats, as OpenAI has them

Chats may have `system` beside them, which then is their first message. Other fields that the model should see are
refused (`unread`).

A text's answer ends with the end-of-document token; a chat is laid out by the tokenizer's own template, which ends its
turns as the model knows it (`chat.layout`). Everything behind a prompt is its answer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.records import unread
from runyard_trainer.data.records.base import Example, RecordKind, Sample, Shown
from runyard_trainer.data.records.chat.encoder import ChatEncoder, Tokens
from runyard_trainer.data.records.chat.messages import (
    Dialogue,
    Turn,
    parse_message,
    parse_messages,
    put_system_first,
)
from runyard_trainer.data.records.unread import Said
from runyard_trainer.data.sources.rows import BadRecord, Row

_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "spans": pa.list_(pa.int32())})
"""`input_ids`: prompt and chosen answer, then prompt and rejected answer. `spans`: the length of the first of the two,
and the start of the answer in each."""

_OPENAI_NAMES = {"prompt": "input", "chosen": "preferred_output", "rejected": "non_preferred_output"}
_ROLES = ("system", "developer", "user", "assistant", "tool")

Message = dict[str, str]
Text = str | list[Message]
"""A prompt or an answer: a text, or the messages of a chat."""


@dataclass(frozen=True)
class AnswerPair:
    """A prompt with two answers; all three are texts, or all three chats."""

    prompt: Text
    chosen: Text
    rejected: Text
    place: str
    """The URI it was read from, with the line where there are several."""

    @property
    def identity(self) -> str:
        """The pair as text; empty where it says nothing."""
        parts = [part if isinstance(part, str) else json.dumps(part) for part in self._parts]
        return "\n".join(parts) if any(part.strip() for part in parts) else ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a row of JSONL."""
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of prompt and answers."""
        return sum(len(text.encode()) for part in self._parts for text in _texts_of(part))

    @property
    def _parts(self) -> tuple[Text, Text, Text]:
        return self.prompt, self.chosen, self.rejected


def _texts_of(part: Text) -> list[str]:
    return [part] if isinstance(part, str) else [message["content"] for message in part]


# -------------------------------------------------------------------------------------------------------------- parsing


def parse_answer_pair(row: Row) -> AnswerPair:
    """Read the prompt of a row and its two answers, see the module; raises BadRecord."""
    is_openai = "preferred_output" in row.fields
    pair = _parse_openai(row) if is_openai else _parse_columns(row)
    if pair.chosen == pair.rejected:
        raise BadRecord("both answers are the same, so neither is the better one: remove the pair")
    for part, name in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
        if not part or (isinstance(part, str) and not part.strip()):
            raise BadRecord(f"the {name} answer is empty: write one, or remove the pair")
    names = _OPENAI_NAMES if is_openai else {field: row.name_of(field) for field in _OPENAI_NAMES}
    _check_all_is_read(row, pair, names.values())
    return pair


def _check_all_is_read(row: Row, pair: AnswerPair, names: Collection[str]) -> None:
    said = Said(_texts_of(pair.prompt), [*_texts_of(pair.chosen), *_texts_of(pair.rejected)])
    if isinstance(pair.prompt, str):
        unread.refuse_unread_of_row(row, unread.PREFERENCE_TEXTS, names, said)
    else:
        unread.refuse_unread_of_row(row, unread.PREFERENCE_CHATS, [*names, row.name_of("system")], said)


def _parse_columns(row: Row) -> AnswerPair:
    names = {field: row.name_of(field) for field in _OPENAI_NAMES}
    missing = [field for field, name in names.items() if name not in row.fields]
    if missing:
        found = ", ".join(sorted(row.fields)[:8]) or "nothing"
        raise BadRecord(
            f"no field {names[missing[0]]!r}, found {found}: name the field that holds it in columns.{missing[0]}"
        )
    is_chat = {field: isinstance(row.fields[name], list) for field, name in names.items()}
    if len(set(is_chat.values())) > 1:
        chats = " and ".join(repr(names[field]) for field, is_list in is_chat.items() if is_list)
        raise BadRecord(f"{chats} has a list of messages and the rest is text: write all of prompt and answers alike")
    if is_chat["prompt"]:
        return _build_chat(row, {field: row.fields[name] for field, name in names.items()}, names)
    return AnswerPair(row.text("prompt"), row.text("chosen"), row.text("rejected"), row.place)


def _parse_openai(row: Row) -> AnswerPair:
    if any(row.name_of(field) in row.fields for field in ("chosen", "rejected")):
        raise BadRecord(
            "both preferred_output and chosen or rejected are there: keep input, preferred_output and "
            "non_preferred_output, or prompt, chosen and rejected"
        )
    for name in _OPENAI_NAMES.values():
        if name not in row.fields:
            raise BadRecord(f"preferred_output is there and {name} is not: OpenAI's pairs have both")
    given = row.fields["input"]
    if not isinstance(given, dict) or "messages" not in given:
        raise BadRecord("field 'input' has no messages: OpenAI writes {\"messages\": [...]} there")
    if given.get("tools"):
        raise BadRecord("field 'input' has tools, which are not laid out: remove them, or the pair")
    unread.refuse_unread(given, unread.PREFERENCE_CHATS, (), Said(), "input.")
    values = {field: row.fields[name] for field, name in _OPENAI_NAMES.items()} | {"prompt": given["messages"]}
    return _build_chat(row, values, _OPENAI_NAMES | {"prompt": "input.messages"})


def _build_chat(row: Row, values: dict[str, Any], names: dict[str, str]) -> AnswerPair:
    chats = {
        field: parse_messages(value, names[field], partial(_parse_turn, is_trained=field != "prompt"))
        for field, value in values.items()
    }
    for field in ("chosen", "rejected"):
        if any(turn.role != "assistant" for turn in chats[field]):
            raise BadRecord(f"field {names[field]!r} has a message that is not the assistant's: leave it in the prompt")
    chats["prompt"] = put_system_first(row, chats["prompt"], names["prompt"])
    messages = {field: [turn.to_message() for turn in turns] for field, turns in chats.items()}
    return AnswerPair(**messages, place=row.place)


def _parse_turn(item: dict[str, Any], where: str, is_trained: bool) -> Turn:
    turn = parse_message(item, where, _ROLES)
    unread.refuse_unread_of_message(item, where, is_trained)
    if item.get("weight") not in (None, int(is_trained)):
        raise BadRecord(f"{where}.weight is {item['weight']!r}, and answers alone are learned: leave it out")
    return turn


# ------------------------------------------------------------------------------------------------------------- encoding


@dataclass
class AnswerPairEncoder:
    """Encodes prompt and answer of each pair, cut at the end to the sequence length."""

    chat: ChatEncoder
    length: int
    schema: pa.Schema = _SCHEMA

    def encode(self, records: Sequence[AnswerPair]) -> list[list[Example]]:
        """Encode records, see `Encoder`. A pair is left out if its prompt fills the sequence length, or if its answers
        are the same up to there, so that neither is the better one.
        """
        tokens = self.chat.encode_to_end([dialogue for record in records for dialogue in build_dialogues(record)])
        pairs = zip(tokens[::2], tokens[1::2], strict=True)
        return [self._to_examples(record, *pair) for record, pair in zip(records, pairs, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        return {}

    def _to_examples(self, record: AnswerPair, chosen: Tokens, rejected: Tokens) -> list[Example]:
        starts = [tokens.spans[0][0] for tokens in (chosen, rejected)]
        ids = [tokens.ids[: self.length] for tokens in (chosen, rejected)]
        if any(start >= len(some) for start, some in zip(starts, ids, strict=True)):
            return []
        if ids[0] == ids[1]:
            return []
        is_truncated = max(len(chosen.ids), len(rejected.ids)) > self.length
        columns = {"input_ids": ids[0] + ids[1], "spans": [len(ids[0]), *starts]}
        return [Example(columns, record.num_bytes, is_truncated)]


def build_dialogues(record: AnswerPair) -> tuple[Dialogue, Dialogue]:
    """Return the prompt with the chosen answer and with the rejected one, trained on from the first message of the
    answer.
    """
    is_chat = not isinstance(record.prompt, str)
    prompt = _to_turns(record.prompt, "user")
    chosen, rejected = (
        (replace(first, is_trained=True), *others)
        for first, *others in (_to_turns(part, "assistant") for part in (record.chosen, record.rejected))
    )
    return (
        Dialogue((*prompt, *chosen), is_chat, record.place),
        Dialogue((*prompt, *rejected), is_chat, record.place),
    )


def _to_turns(part: Text, speaker: str) -> list[Turn]:
    messages = [{"role": speaker, "content": part}] if isinstance(part, str) else part
    return [Turn(message["role"], message["content"]) for message in messages]


@dataclass(frozen=True)
class AnswerPairs:
    """The samples of a stream: its pairs, as they were encoded."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        example = self.examples[index]
        return {"input_ids": example["input_ids"], "spans": example["spans"]}

    @property
    def filler(self) -> Sample:
        """Two prompts without answers."""
        return {"input_ids": np.zeros(2, dtype=np.int64), "spans": np.ones(3, dtype=np.int64)}


def open_answer_pairs(dataset: Dataset, stream: str, _: Recipe) -> AnswerPairs:
    """Open the samples of a stream."""
    return AnswerPairs(dataset.examples(stream))


def show_pair(columns: dict[str, Any]) -> Shown:
    """Show both answers."""
    chosen_length, chosen_start, rejected_start = columns["spans"]
    rejected = (chosen_length + rejected_start, len(columns["input_ids"]))
    return Shown([(chosen_start, chosen_length), rejected])


DEFINITION = (
    "A prompt and its answer are laid out as for sft; the answer is all that stands behind the prompt, its end "
    "included, and no token reaches from one into the other. An answer's log-probability is the sum of ln p over "
    "its tokens; the margin of a pair is beta times how much more than in the start model that of the "
    "chosen answer exceeds that of the rejected one. The loss is the mean of -ln sigmoid(margin) over pairs, in "
    "nats; kl is the mean over the answers' tokens of the Kullback-Leibler divergence from the start model."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_answer_pair,
    identity=lambda record: record.identity,
    to_json=AnswerPair.to_json,
    build_encoder=lambda tokenizer, recipe: AnswerPairEncoder(ChatEncoder(tokenizer), recipe.training.sequence_length),
    open_samples=open_answer_pairs,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=show_pair,
)
