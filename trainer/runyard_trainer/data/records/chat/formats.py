"""The formats of records with prompts and answers: a row's fields show which one it has.

    prompt-completion   {"prompt": ..., "completion": ...}                              text as it stands
    messages            {"messages": [{"role": ..., "content": ...(, "weight": 0)}]}    a conversation
    alpaca              {"instruction": ...(, "input": ...), "output": ...}             a conversation of two turns
    conversations       {"conversations": [{"from": "human" or "gpt", "value": ...}]}   ShareGPT's and Vicuna's

A conversation may begin with the system, in its first message or in `system` beside the messages or the instruction;
then user and assistant take turns, and the assistant has the last word. Alpaca's `history`, a list of pairs, is turns
before the instruction. Other fields that the model should see, or that say what it should learn, are refused
(`unread`). What the assistant says is trained on, but for a message of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from runyard_trainer.data.records import unread
from runyard_trainer.data.records.chat.messages import (
    Dialogue,
    Turn,
    parse_message,
    parse_messages,
    put_system_first,
    read_key,
)
from runyard_trainer.data.sources.rows import BadRecord, Row, check_text, check_texts, name_of_type

_MARKS = {
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "alpaca": ("instruction", "output"),
    "conversations": ("conversations",),
}
"""The fields that show a format."""

_BESIDE = {
    "prompt-completion": (),
    "messages": ("system",),
    "alpaca": ("input", "system", "history"),
    "conversations": ("system",),
}
"""The fields that a format may have besides."""

_SPEAKERS = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
}
"""The role of each speaker in `conversations`."""


def parse_dialogue(row: Row) -> Dialogue:
    """Read the dialogue of a row in whichever format it has, see the module; raises BadRecord."""
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
    return Turn("user", _read_text(row, "prompt")), Turn("assistant", _read_text(row, "completion"), is_trained=True)


def _parse_alpaca(row: Row) -> tuple[Turn, ...]:
    instruction, answer = _read_text(row, "instruction"), _read_text(row, "output")
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


def _read_text(row: Row, field: str) -> str:
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
    """Refuse any order but one system message at most, then the user and the assistant in turn."""
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
