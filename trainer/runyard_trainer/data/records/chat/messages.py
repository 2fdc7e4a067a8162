"""Messages and the dialogues that they make: what is read from a row before any tokenizer is there.

{"messages": [{"role": ..., "content": ...}, ...], "system": ...}
─(parse_messages, parse_message)─> turns ─(put_system_first)─> turns of a Dialogue
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from runyard_trainer.data.records.unread import is_nothing
from runyard_trainer.data.sources.rows import BadRecord, Row, check_text, name_of_type

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """What one speaker says."""

    role: str
    """system, user or assistant; for answers that are compared also developer or tool."""
    content: str
    is_trained: bool = False

    def to_message(self) -> dict[str, Any]:
        """Return the turn as chat templates read it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Dialogue:
    """Turns, the first of which is not the assistant's."""

    turns: tuple[Turn, ...]
    is_chat: bool
    """False: a prompt and its completion, without a template."""
    place: str
    """The URI it was read from, with the line where there are several."""
    detected_format: str | None = None
    """The format that its fields show; None where its source says the format."""


def parse_messages(items: object, name: str, parse: Callable[[dict[str, Any], str], Turn]) -> tuple[Turn, ...]:
    """Read a list of messages, one at least.

    Args:
        items: the value of a field.
        name: the field's.
        parse: reads one message, given its place: `messages[0]`.

    Raises:
        BadRecord: it is no such list.
    """
    if not isinstance(items, list) or not items:
        found = "an empty list" if items == [] else name_of_type(items)
        raise BadRecord(f"field {name!r} is {found}, not a list of messages")
    turns = []
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRecord(f"field '{name}[{i}]' is {name_of_type(item)}, not a message")
        turns.append(parse(item, f"{name}[{i}]"))
    return tuple(turns)


def parse_message(item: dict[str, Any], where: str, roles: Collection[str] = ROLES) -> Turn:
    """Read the role and the content of a message; raises BadRecord."""
    role = read_key(item, "role", where, "content")
    if role not in roles:
        raise BadRecord(f"field '{where}.role' is {role!r}: write one of {', '.join(roles)}")
    return Turn(role, check_text(read_key(item, "content", where), f"{where}.content"))


def read_key(item: dict[str, Any], key: str, where: str, *others: str) -> Any:
    """Return the value of a message's key; raises BadRecord, which names the `others` too, where there is none."""
    if item.get(key) is None:
        found = ", ".join(sorted(item)[:8]) or "nothing"
        raise BadRecord(f"field {where!r} has no {key!r}, found {found}: a message has {' and '.join((key, *others))}")
    return item[key]


def put_system_first(row: Row, turns: tuple[Turn, ...], name: str) -> tuple[Turn, ...]:
    """Put what the row's `system` field says before the turns of the field `name`.

    Raises:
        BadRecord: it is no text, or the turns begin with a system message that says something else.
    """
    if is_nothing(row.fields.get(row.name_of("system"))):
        return turns
    system = Turn("system", row.text("system"))
    if turns[0].role != "system" or not turns[0].content.strip():
        return system, *turns[turns[0].role == "system" :]
    if turns[0].content.strip() != system.content.strip():
        raise BadRecord(
            f"field {row.name_of('system')!r} and the first of {name!r} are both the system's, and differ: keep one"
        )
    return turns
