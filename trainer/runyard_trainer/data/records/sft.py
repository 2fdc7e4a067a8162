"""Prompts with the answers that a model is to learn, in four formats.

    prompt-completion   {"prompt": ..., "completion": ...}                              text as it stands
    messages            {"messages": [{"role": ..., "content": ...(, "weight": 0)}]}    a conversation
    alpaca              {"instruction": ...(, "input": ...), "output": ...}             a conversation of two turns
    conversations       {"conversations": [{"from": "human" or "gpt", "value": ...}]}   ShareGPT's and Vicuna's

A record's fields show its format, the same for all records unless their sources say theirs. A conversation may begin
with the system, in its first message or in `system` beside the messages or the instruction; then user and assistant
take turns, and the assistant has the last word. Alpaca's `history`, a list of pairs, is turns before the instruction.
Other fields that the model should see, or that say what it should learn, are refused (`unread`).

A conversation is laid out by the tokenizer's chat template (`chat`). Trained on is what the model is to write itself: a
completion, or what the assistant says, in earlier turns too, each with the token that ends it; a message of weight 0 is
not. What is longer than a sequence loses its end; a record of which nothing trained would be left is refused, unless
invalid rows are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records import unread
from runyard_trainer.data.records.base import Example, RecordKind, Shown
from runyard_trainer.data.records.chat.encoder import ChatEncoder, Tokens
from runyard_trainer.data.records.chat.messages import (
    Dialogue,
    Turn,
    parse_message,
    parse_messages,
    put_system_first,
    read_key,
)
from runyard_trainer.data.records.packing import PackedRecords, open_packed_records
from runyard_trainer.data.sources.rows import BadRecord, Row, check_text, check_texts, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "spans": pa.list_(pa.int32())})
"""`spans`: start and end of each run of trained tokens, one after the other."""

_MARKS = {
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "conversations": ("conversations",),
}
"""The fields that tell a format."""

_BESIDE = {
    "prompt-completion": (),
    "messages": ("system",),
    "alpaca": ("input", "system", "history"),
    "conversations": ("system",),
}
"""Those that it may have besides."""

_SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""Who speaks, by what conversations call it."""

_SHOWN_PROBLEMS = 10


# --------------------------------------------------------------------------------------------------------------- parse


def parse_dialogue(row: Row) -> Dialogue:
    """See the module; raises BadRecord."""
    name = row.record_format or _detect_format(row)
    turns = _PARSERS[name](row)
    _check_all_is_read(row, name, turns)
    detected = None if row.record_format else name
    return Dialogue(turns, is_chat=name != "prompt-completion", place=row.place, detected_format=detected)


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


def _check_all_is_read(row: Row, name: str, turns: Sequence[Turn]) -> None:
    read = {row.name_of(field) for field in (*_MARKS[name], *_BESIDE[name])}
    if row.record_format is not None or read & {"chosen", "rejected"}:  # whoever says so has seen that there are pairs
        read |= {"chosen", "rejected"}
    answers = [turn.content for turn in turns if turn.role == "assistant"]
    said = unread.Said([turn.content for turn in turns[:-1]], answers)
    unread.refuse_unread_of_row(row, unread.SFT[name], read, said)


def _parse_prompt_completion(row: Row) -> tuple[Turn, ...]:
    return Turn("user", _said(row, "prompt")), Turn("assistant", _said(row, "completion"), is_trained=True)


def _parse_alpaca(row: Row) -> tuple[Turn, ...]:
    instruction, answer = _said(row, "instruction"), _said(row, "output")
    given = row.text("input") if "input" in row else ""
    question = f"{instruction}\n\n{given}" if given.strip() else instruction
    turns = Turn("user", question), Turn("assistant", answer, is_trained=True)
    return put_system_first(row, (*_parse_history(row), *turns), row.name_of("instruction"))


def _parse_history(row: Row) -> Iterator[Turn]:
    name, pairs = row.name_of("history"), row.fields.get(row.name_of("history"))
    if unread.is_nothing(pairs):
        return
    if not isinstance(pairs, list):
        raise BadRecord(
            f"field {name!r} is {name_of_type(pairs)}, not a list of pairs: what the user said, and the answer"
        )
    for i, pair in enumerate(pairs):
        texts = check_texts(pair, f"{name}[{i}]")
        if len(texts) != 2 or not all(map(str.strip, texts)):
            raise BadRecord(f"field '{name}[{i}]' is no pair of texts: write what the user said, and the answer")
        yield Turn("user", texts[0])
        yield Turn("assistant", texts[1], is_trained=True)


def _said(row: Row, field: str) -> str:
    text = row.text(field)
    if not text.strip():
        raise BadRecord(f"field {row.name_of(field)!r} is empty: write something there, or leave the record out")
    return text


def _parse_messages(row: Row) -> tuple[Turn, ...]:
    return _parse_turns(row, "messages", _parse_message)


def _parse_conversations(row: Row) -> tuple[Turn, ...]:
    return _parse_turns(row, "conversations", _parse_utterance)


def _parse_turns(row: Row, field: str, parse: Callable[[dict[str, Any], str], Turn]) -> tuple[Turn, ...]:
    name = row.name_of(field)
    turns = parse_messages(row.value(field), name, parse)
    _check_order([turn.role for turn in turns], name)
    if not any(turn.is_trained for turn in turns):
        raise BadRecord(f"field {name!r} has weight 0 for all that the assistant says: leave the record out")
    return put_system_first(row, turns, name)


def _check_order(roles: list[str], name: str) -> None:
    """One system at most, then the user and the assistant in turn."""
    first = 1 if roles[0] == "system" else 0
    for i, role in enumerate(roles[first:], first):
        if role == "system":
            raise BadRecord(f"field '{name}[{i}]' is the system's, who speaks first or never: move it to the front")
        if i == first and role == "assistant":
            raise BadRecord(f"field '{name}[{i}]' is the assistant's, and nobody has asked: begin with the user's")
        if i > first and role == roles[i - 1]:
            raise BadRecord(f"field '{name}[{i}]' is the {role}'s again: user and assistant take turns; join the two")
    if roles[-1] != "assistant":
        raise BadRecord(
            f"field '{name}[{len(roles) - 1}]' is the last, and the {roles[-1]}'s: end with the assistant's"
        )


def _parse_message(item: dict[str, Any], where: str) -> Turn:
    return _check_turn(parse_message(item, where), item, f"{where}.content", where)


def _parse_utterance(item: dict[str, Any], where: str) -> Turn:
    speaker = read_key(item, "from", where, "value")
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise BadRecord(f"field '{where}.from' is {speaker!r}: write one of {', '.join(_SPEAKERS)}")
    turn = Turn(role, check_text(read_key(item, "value", where), f"{where}.value"))
    return _check_turn(turn, item, f"{where}.value", where)


def _check_turn(turn: Turn, item: dict[str, Any], content_name: str, where: str) -> Turn:
    if not turn.content.strip() and turn.role != "system":
        raise BadRecord(f"field {content_name!r} is empty: write something there, or leave the record out")
    is_trained = _is_trained(item.get("weight"), turn.role, where)
    unread.refuse_unread_of_message(item, where, is_trained)
    return replace(turn, is_trained=is_trained)


def _is_trained(weight: object, role: str, where: str) -> bool:
    if weight is None:
        return role == "assistant"
    if isinstance(weight, bool) or weight not in (0, 1):
        raise BadRecord(f"field '{where}.weight' is {weight!r}: write 1 to train on it, or 0 not to")
    if weight == 1 and role != "assistant":
        raise BadRecord(f"field '{where}.weight' is 1, and what the {role} says is never trained on: leave it out")
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
    may_drop: bool = False
    """Records that are too long are left out, rather than refused."""
    schema: pa.Schema = _SCHEMA
    first: Dialogue | None = None
    """The first whose source does not say its format: the others must be like it."""
    stop_token_ids: set[int] = field(default_factory=set)
    """The last tokens of answers."""
    problems: list[str] = field(default_factory=list)
    """Of records that are too long, by place."""

    def encode(self, records: Sequence[Dialogue]) -> list[list[Example]]:
        """See `Encoder`."""
        for record in records:
            self._check_format(record)
        return [
            self._to_examples(record, tokens) for record, tokens in zip(records, self.chat.encode(records), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """See `Encoder`."""
        if self.problems:
            num_more = len(self.problems) - _SHOWN_PROBLEMS
            more = [f"... and {num_more} more like these ({len(self.problems)} in all)"] if num_more > 0 else []
            raise UserError("\n".join(self.problems[:_SHOWN_PROBLEMS] + more), ExitCode.DATA_ERROR)
        return {"stop_token_ids": sorted(self.stop_token_ids)}

    def _check_format(self, record: Dialogue) -> None:
        if record.detected_format is None:
            return
        self.first = self.first or record
        if record.detected_format != self.first.detected_format:
            raise UserError(
                f"{record.place}: this record has the fields of {record.detected_format}, and that at "
                f"{self.first.place} those of {self.first.detected_format}: write all of them alike, or in sources "
                "that say their format",
                ExitCode.DATA_ERROR,
            )

    def _to_examples(self, record: Dialogue, tokens: Tokens) -> list[Example]:
        """A sequence's first token is predicted from nothing, so it is not trained on."""
        self.stop_token_ids.update(tokens.ids[end - 1] for _, end in tokens.spans)
        spans = [(max(start, 1), min(end, self.length)) for start, end in tokens.spans]
        spans = [(start, end) for start, end in spans if start < end]
        if not spans:
            if not self.may_drop:
                self.problems.append(
                    f"{record.place}: {tokens.spans[0][0]} tokens come before the answer, and training.sequenceLength "
                    f"is {self.length}: lengthen it, or leave the record out"
                )
            return []
        columns = {"input_ids": tokens.ids[: self.length], "spans": np.array(spans).ravel().tolist()}
        text_bytes = sum(len(turn.content.encode()) for turn in record.turns)
        return [Example(columns, text_bytes, is_truncated=len(tokens.ids) > self.length)]


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> DialogueEncoder:
    may_drop = recipe.data.invalid_rows == "Drop"
    return DialogueEncoder(ChatEncoder(tokenizer), recipe.training.sequence_length, may_drop)


def _show(columns: dict[str, Any]) -> Shown:
    starts, ends = columns["spans"][::2], columns["spans"][1::2]
    return Shown(list(zip(starts, ends, strict=True)))


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


DEFINITION = (
    "A conversation is laid out by the tokenizer's chat template, a prompt and its completion as they stand, with "
    "the end-of-document token; no token reaches from a prompt into its answer. Each is cut to sequenceLength "
    "tokens, and they are packed so that none attends to another. The loss is the mean of -ln p over the tokens of "
    "the answers and those that end them, in nats. Exact match and ROUGE (rouge-score's F-measures, without "
    "stemming) compare the last answers of at most 64 records, spread evenly, with what the model writes greedily, "
    "up to 128 tokens or half a sequence."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_dialogue,
    identity=lambda record: "\n".join(turn.content for turn in record.turns),
    to_json=_to_json,
    build_encoder=_build_encoder,
    open_samples=open_packed_records,
    split_samples=lambda samples, _info, _recipe: cast(PackedRecords, samples).sizes,
    show=_show,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
)
