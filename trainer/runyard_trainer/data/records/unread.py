"""Fields that no record is made of though they tell a model something, or what to learn: refused by name.

Published data has system prompts, tools, pictures or earlier turns beside the messages. Training without them gives
another model than intended, and no metric shows it. Fields that only say where a record is from (id, source, category,
language, score, ...) are in none of these tables, and are passed over. So are empty fields, and text that the record
has elsewhere too: some data has a `prompt` beside the `instruction` and `input` that it was made of.

Names are compared without case, `_`, `-` and spaces: systemPrompt is system_prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from runyard_trainer.data.sources.rows import BadRecord, Row


@dataclass(frozen=True)
class Said:
    """The texts that a record is made of."""

    asked: Collection[str] = ()
    """The texts before the last answer."""
    answered: Collection[str] = ()
    """The texts that are learned."""


@dataclass(frozen=True)
class Unread:
    """A field to refuse."""

    remedy: str
    """What to do about it, for the message."""
    part: str = ""
    """The part of `Said` where the field's text would be enough: then nothing is lost."""
    harmless: frozenset[Any] = frozenset()
    """Values that change nothing: weight 1."""
    is_flag: bool = False
    """Whether it matters only where it is true or false: its name has other uses, too."""


Table = Mapping[str, Unread]
"""Fields to refuse, by name."""


# --------------------------------------------------------------------------------------------------------------- tables

_SYSTEM = ("system", "system_prompt", "system_message", "system_instruction", "instructions")
_HISTORY = ("history", "chat_history", "conversation_history", "dialog_history", "previous_turns")
_INPUTS = ("instruction", "input", "context", "query", "question")
_REASONING = (
    "reasoning",
    "reasoning_content",
    "thinking",
    "thought",
    "thoughts",
    "chain_of_thought",
    "cot",
    "complex_cot",
)
_TOOLS = ("tools", "functions", "tool_definitions", "function_definitions", "available_tools", "tool_calls")
_DOCUMENTS = ("documents", "contexts", "passages", "retrieved_documents")
_MEDIA = ("image", "images", "image_url", "audio", "audios", "video", "videos", "input_audio", "pixel_values")
_FLAGS = ("train", "trainable", "trained", "is_trained", "loss", "learn", "train_on")
_MASKS = ("mask", "loss_mask", "assistant_mask", "assistant_masks", "masked", "train_mask")


def _each(names: Collection[str], remedy: str, part: str = "") -> dict[str, Unread]:
    return {_fold(name): Unread(remedy, part) for name in names}


@lru_cache(maxsize=4096)
def _fold(name: str) -> str:
    return name.lower().translate({ord(character): None for character in "_- "})


def _beside(place: str) -> dict[str, Unread]:
    """Return the fields to refuse beside any record of text; `place` is where their content can be written instead."""
    return {
        **_each(_SYSTEM, f"write it into {place}, or remove the field", "asked"),
        **_each(_HISTORY, f"write it into {place}, or remove the field", "asked"),
        **_each(_DOCUMENTS, f"write them into {place}, or remove the field", "asked"),
        **_each(_TOOLS, f"write them as text into {place}, or remove the field"),
        **_each(_MEDIA, "only text is: leave out the records that need it, or remove the field"),
        **_each(["chat_template_kwargs"], "put what it changes into the chat template itself, or remove the field"),
    }


_SYSTEM_COLUMN = _each(_SYSTEM, "say in columns.system which field is the system's, or remove this one", "asked")
_WEIGHT = Unread("how much records count is a source's weight to say: remove the field", harmless=frozenset({1, "1"}))
_TRAINING = {
    **_each(_REASONING, "write it into the answer, or remove the field", "answered"),
    **_each(_MASKS, "write messages, with weight 0 where the assistant is not learned from, and remove the field"),
    **{_fold(name): _WEIGHT for name in ("weight", "sample_weight", "loss_weight")},
}
_BAD_ANSWERS = "leave out the answers that are not to be learned, and remove the field"
_GOOD_OR_BAD = {_fold("kto_tag"): Unread(_BAD_ANSWERS), _fold("label"): Unread(_BAD_ANSWERS, is_flag=True)}
_PAIRS = _each(
    ["chosen", "rejected"],
    "pairs of answers are for objective preference; to learn from the rest of the record, say its format",
    "answered",
)

TEXTS: Table = {
    **_beside("the prompt"),
    **_each(_INPUTS, "write it into the prompt, or remove the field", "asked"),
}
"""Fields to refuse beside a prompt that is a text."""
CHATS: Table = {
    **_beside("a message"),
    **_each(_HISTORY, "write it as messages before the others, or remove the field", "asked"),
    **_each(["context", "instruction"], "write it into a message, or remove the field", "asked"),
    **_SYSTEM_COLUMN,
}
"""Fields to refuse beside messages."""

_LEARNED = {**_TRAINING, **_GOOD_OR_BAD, **_PAIRS}
SFT: Mapping[str, Table] = {
    "prompt-completion": {**TEXTS, **_LEARNED},
    "messages": {**CHATS, **_LEARNED},
    "conversations": {**CHATS, **_LEARNED},
    "alpaca": {
        **_beside("the instruction"),
        **_each(_HISTORY, "say in columns.history which field has earlier turns, or remove this one", "asked"),
        **_each(_INPUTS, "say in columns.input which field is the input, or remove this one", "asked"),
        **_SYSTEM_COLUMN,
        **_LEARNED,
    },
}
"""Fields to refuse beside those of each format."""

PREFERENCE_TEXTS: Table = {**TEXTS, **_TRAINING}
PREFERENCE_CHATS: Table = {**CHATS, **_TRAINING}

PAIRED_TEXTS: Table = _each(
    (
        *(f"{what}{which}" for what in ("text", "sentence", "question") for which in ("1", "2", "a", "b")),
        *("premise", "hypothesis", "question", "passage", "sentence", "second_text", "second_sentence"),
    ),
    "say in columns.text_pair which field is the second text, or remove this one",
    "asked",
)
"""Fields to refuse beside a text that is classified by itself."""

QUESTIONS: Table = {
    **_each(_HISTORY, "write it into the question, or remove the field", "asked"),
    **_each(_MEDIA, "only text is: leave out the records that need it, or remove the field"),
}
"""Fields to refuse beside a question and the text that answers it."""

_IN_MESSAGE = {
    **_each(
        (
            *(*_TOOLS, "function_call", "tool_call_id", *_MEDIA, *_REASONING, *_DOCUMENTS, "context", "name"),
            *("refusal", "attachments", "files"),
        ),
        "leave it out, or write it as text",
    ),
    **_each(["chat_template_kwargs"], "put what it changes into the chat template itself, or leave it out"),
    **_each(_MASKS, "write weight 0 where the assistant is not learned from"),
}
_FLAG_REMEDY = Unread("write weight 0 where the assistant is not learned from, and leave the field out")


# -------------------------------------------------------------------------------------------------------------- looking


def refuse_unread_of_row(row: Row, table: Table, read: Collection[str], said: Said, done: str = "trained on") -> None:
    """Refuse fields of a row that would be lost, by whatever name `Columns` gives them.

    Raises:
        BadRecord: there is one.
    """
    names = {row.name_of(field): field for field in ("system", "history", "input")}
    known = {**table, **{_fold(name): table[field] for name, field in names.items() if field in table}}
    refuse_unread(row.fields, known, read, said, done=done)


def refuse_unread(
    fields: Mapping[str, Any],
    table: Table,
    read: Collection[str],
    said: Said,
    prefix: str = "",
    done: str = "trained on",
) -> None:
    """Refuse fields of a row, or of an object within it, that would be lost.

    Args:
        fields: the row's, or the object's.
        table: the fields to refuse.
        read: the names of those that the record was made of.
        said: the texts that it was made of.
        prefix: what stands before a field's name in messages.
        done: what is not done with the fields, for messages.

    Raises:
        BadRecord: there is one.
    """
    for name, value in fields.items():
        unread = table.get(_fold(name))
        if unread is None or name in read or is_nothing(value) or _is_harmless(value, unread, said):
            continue
        raise BadRecord(f"field {prefix + name!r} is not {done}: {unread.remedy}")


def refuse_unread_of_message(
    message: Mapping[str, Any], where: str, is_trained: bool | None, done: str = "trained on"
) -> None:
    """Refuse fields of a message that would be lost.

    Args:
        message: the message.
        where: its place, for messages: `messages[0]`.
        is_trained: whether it is learned from; None: nothing is.
        done: what is not done with the fields, for messages.

    Raises:
        BadRecord: with the field's place.
    """
    refuse_unread(message, _IN_MESSAGE, (), Said(), f"{where}.", done)
    flags = {name: value for name, value in message.items() if _fold(name) in _FOLDED_FLAGS}
    wrong = {name: value for name, value in flags.items() if value not in (None, is_trained)}
    if is_trained is not None and wrong:
        refuse_unread(wrong, dict.fromkeys(_FOLDED_FLAGS, _FLAG_REMEDY), (), Said(), f"{where}.", done)


def is_nothing(value: Any) -> bool:
    """Return whether a field's value says nothing, like those that Parquet gives every row."""
    if isinstance(value, Mapping):
        return all(map(is_nothing, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_nothing, value))
    return value is None or (isinstance(value, str) and value.strip() in ("", "[]", "{}"))  # as CSV has empty lists


def _is_harmless(value: Any, unread: Unread, said: Said) -> bool:
    if unread.is_flag:
        return not isinstance(value, bool) and str(value).lower() not in ("true", "false")
    if isinstance(value, int | float | str) and not isinstance(value, bool) and value in unread.harmless:
        return True
    texts: Collection[str] = getattr(said, unread.part) if unread.part else ()
    leaves = [leaf.strip() for leaf in _find_texts(value)]
    return bool(leaves) and all(any(leaf in text for text in texts) for leaf in leaves)


def _find_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _find_texts(item)


_FOLDED_FLAGS = frozenset(map(_fold, _FLAGS))
