"""Prompts with the answers that a model is to learn, in four formats.

    prompt-completion   {"prompt": ..., "completion": ...}                              text as it stands
    messages            {"messages": [{"role": ..., "content": ...(, "weight": 0)}]}    a conversation
    alpaca              {"instruction": ...(, "input": ...), "output": ...}             a conversation of two turns
    conversations       {"conversations": [{"from": "human" or "gpt", "value": ...}]}   ShareGPT's and Vicuna's

A conversation is laid out by the tokenizer's chat template (`chat`). Trained on is what the model is to write itself:
a completion, or what the assistant says, each with the token that ends it; a message of weight 0 is not. What is longer
than a sequence loses its end, and a record of which nothing trained is left is dropped; both are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runyard_trainer.contract import Recipe
from runyard_trainer.records.base import Example, RecordKind
from runyard_trainer.records.chat import ChatEncoder, Dialogue, Tokens, Turn
from runyard_trainer.records.packing import open_packed_records
from runyard_trainer.sources import BadRecord, Row, check_text, name_of_type
from runyard_trainer.tokenizer import DocumentTokenizer

_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "spans": pa.list_(pa.int32())})
"""`spans`: start and end of each run of trained tokens, one after the other."""

_MARKS = {
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "conversations": ("conversations",),
}
"""The fields that tell a format."""

_SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""Who speaks, by what conversations call it."""

_ROLES = ("system", "user", "assistant")


# --------------------------------------------------------------------------------------------------------------- parse


def parse_dialogue(row: Row) -> Dialogue:
    """See the module; raises BadRecord."""
    name = row.record_format or _detect_format(row)
    turns = _PARSERS[name](row)
    return Dialogue(turns, is_chat=name != "prompt-completion", place=row.place)


def _detect_format(row: Row) -> str:
    whole = [name for name, fields in _MARKS.items() if all(field in row for field in fields)]
    if len(whole) > 1:
        names = " and ".join(f"{name} ({_name_fields(row, name)})" for name in whole)
        raise BadRecord(f"it has the fields of {len(whole)} formats, {names}: say which it is in format")
    parts = [name for name, fields in _MARKS.items() if any(field in row for field in fields)]
    if len(whole or parts) == 1:
        return (whole or parts)[0]
    formats = "; ".join(f"{_name_fields(row, name)} ({name})" for name in _MARKS)
    found = ", ".join(sorted(row.fields)[:8]) or "nothing"
    raise BadRecord(f"no record to learn an answer from: expected {formats}; found {found}: name the fields in columns")


def _name_fields(row: Row, format_name: str) -> str:
    return ", ".join(row.name_of(field) for field in _MARKS[format_name])


def _parse_prompt_completion(row: Row) -> tuple[Turn, ...]:
    return _ask(row.text("prompt"), row.text("completion"))


def _parse_alpaca(row: Row) -> tuple[Turn, ...]:
    instruction, answer = row.text("instruction"), row.text("output")
    given = row.text("input") if "input" in row else ""
    return _ask(f"{instruction}\n\n{given}" if given.strip() else instruction, answer)


def _ask(question: str, answer: str) -> tuple[Turn, ...]:
    return Turn("user", question), Turn("assistant", answer, is_trained=bool(answer.strip()))


def _parse_messages(row: Row) -> tuple[Turn, ...]:
    return _parse_turns(row, "messages", _parse_message)


def _parse_conversations(row: Row) -> tuple[Turn, ...]:
    return _parse_turns(row, "conversations", _parse_utterance)


def _parse_turns(row: Row, field: str, parse: Callable[[dict[str, Any], str], Turn]) -> tuple[Turn, ...]:
    name = row.name_of(field)
    if name not in row.fields:
        found = ", ".join(sorted(row.fields)[:8]) or "nothing"
        raise BadRecord(f"no field {name!r}, found {found}: name the field that holds it in columns.{field}")
    items = row.fields[name]
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else name_of_type(items)
        raise BadRecord(f"field {name!r} is {found}, not a list of messages")
    turns = []
    for i, item in enumerate(items):
        where = f"{name}[{i}]"
        if not isinstance(item, dict):
            raise BadRecord(f"{where} is {name_of_type(item)}, not a message")
        turns.append(parse(item, where))
    if turns[0].role == "assistant":
        raise BadRecord(f"{name}[0] is the assistant's: there is nothing that it answers; begin with what it is asked")
    if all(turn.role != "assistant" for turn in turns):
        raise BadRecord(f"{name} has no message of the assistant, so there is nothing to learn from")
    return tuple(turns)


def _parse_message(item: dict[str, Any], where: str) -> Turn:
    _check_keys(item, where, "role", "content", "weight")
    role = item["role"]
    if role not in _ROLES:
        raise BadRecord(f"{where}.role is {role!r}: write one of {', '.join(_ROLES)}")
    content = check_text(item["content"], f"{where}.content")
    return Turn(role, content, is_trained=_parse_weight(item.get("weight"), role, where) and bool(content.strip()))


def _parse_utterance(item: dict[str, Any], where: str) -> Turn:
    _check_keys(item, where, "from", "value", "weight")
    speaker = item["from"]
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise BadRecord(f"{where}.from is {speaker!r}: write one of {', '.join(_SPEAKERS)}")
    content = check_text(item["value"], f"{where}.value")
    return Turn(role, content, is_trained=_parse_weight(item.get("weight"), role, where) and bool(content.strip()))


def _check_keys(item: dict[str, Any], where: str, speaker: str, content: str, *others: str) -> None:
    for key in (speaker, content):
        if item.get(key) is None:
            raise BadRecord(f"{where} has no {key!r}: a message is {{{speaker!r}: ..., {content!r}: ...}}")
    unknown = sorted(key for key in item if item[key] is not None and key not in (speaker, content, *others))
    if unknown:
        raise BadRecord(f"{where} has {unknown[0]!r}, which is not trained on: leave it out, or write it as text")


def _parse_weight(weight: object, role: str, where: str) -> bool:
    """Whether a message is trained on."""
    if weight is None:
        return role == "assistant"
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadRecord(f"{where}.weight is {weight!r}: write 1 to train on it, or 0 not to")
    if weight == 1 and role != "assistant":
        raise BadRecord(f"{where}.weight is 1, but {role} messages are never trained on: leave the weight out")
    return weight == 1


_PARSERS: dict[str, Callable[[Row], tuple[Turn, ...]]] = {
    "prompt-completion": _parse_prompt_completion,
    "messages": _parse_messages,
    "alpaca": _parse_alpaca,
    "conversations": _parse_conversations,
}


# -------------------------------------------------------------------------------------------------------------- encode


@dataclass
class DialogueEncoder:
    """Token ids of a whole dialogue, cut to the sequence length, and where the trained ones are."""

    chat: ChatEncoder
    length: int
    schema: pa.Schema = _SCHEMA

    def encode(self, records: Sequence[Dialogue]) -> list[list[Example]]:
        """See `Encoder`."""
        return [
            self._cut(tokens, sum(len(turn.content.encode()) for turn in record.turns))
            for record, tokens in zip(records, self.chat.encode(records), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        return {}

    def _cut(self, tokens: Tokens, text_bytes: int) -> list[Example]:
        """A sequence's first token is predicted from nothing, so it is not trained on."""
        spans = [(max(start, 1), min(end, self.length)) for start, end in tokens.spans]
        spans = [(start, end) for start, end in spans if start < end]
        if not spans:
            return []
        columns = {"input_ids": tokens.ids[: self.length], "spans": np.array(spans).ravel().tolist()}
        return [Example(columns, text_bytes, is_truncated=len(tokens.ids) > self.length)]


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> DialogueEncoder:
    return DialogueEncoder(ChatEncoder(tokenizer), recipe.training.sequence_length)


def _to_json(record: Dialogue) -> dict[str, Any]:
    """As prompt and completion, or as messages."""
    if not record.is_chat:
        prompt, completion = record.turns
        return {"prompt": prompt.content, "completion": completion.content}
    messages = [turn.to_message() for turn in record.turns]
    for turn, message in zip(record.turns, messages, strict=True):
        if turn.role == "assistant" and not turn.is_trained:
            message["weight"] = 0
    return {"messages": messages}


KIND = RecordKind(
    parse=parse_dialogue,
    identity=lambda record: "\n".join(turn.content for turn in record.turns),
    to_json=_to_json,
    build_encoder=_build_encoder,
    open_samples=open_packed_records,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
)
