"""Parse the records of each type of task into questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runyard_trainer.contract.evaluation import TaskType
from runyard_trainer.data.records.unread import TEXTS, Said, refuse_unread_of_row
from runyard_trainer.data.sources.rows import BadRecord, Row, check_text, check_texts, name_of_type


@dataclass(frozen=True)
class Question:
    """A question as its record has it, without shots."""

    prompt: str
    answer: str
    """The answer that a shot shows."""
    target: Any
    choices: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    group: str = ""


@dataclass(frozen=True)
class TaskKind:
    """How a type of task, or a preset, is parsed and scored."""

    type: TaskType
    parse: Callable[[Row], list[Question]]
    """Returns the questions about a record; raises BadRecord."""
    metric: str
    labels: tuple[str, ...] = ()
    """Labels of a classification; empty: those that the records have."""


def read_field(row: Row, name: str) -> Any:
    """Read a field by its published name; raise BadRecord where it is missing."""
    if name not in row.fields:
        found = ", ".join(sorted(row.fields)[:8]) or "nothing"
        raise BadRecord(f"no field {name!r}, found {found}")
    return row.fields[name]


def read_text(row: Row, name: str) -> str:
    """Read a field's text; raise BadRecord where it is no text, or empty."""
    text = check_text(read_field(row, name), name).strip()
    if not text:
        raise BadRecord(f"field {name!r} is empty")
    return text


def parse_choices(row: Row) -> list[Question]:
    """Parse a multiple-choice record: `prompt`, `choices`, and `answer` as the number of a choice."""
    choices = check_texts(read_field(row, "choices"), "choices")
    if len(choices) < 2 or not all(map(str.strip, choices)):
        raise BadRecord("field 'choices' needs two texts at least, and none of them empty")
    answer = read_field(row, "answer")
    if type(answer) is not int:
        raise BadRecord(f"field 'answer' is {name_of_type(answer)}, not the number of a choice")
    if not 0 <= answer < len(choices):
        raise BadRecord(f"field 'answer' is {answer}, and choices are numbered from 0 to {len(choices) - 1}")
    return [Question(_read_prompt(row), choices[answer], answer, choices)]


def parse_labelled(row: Row) -> list[Question]:
    """Parse a classification record: `prompt` and `label`."""
    label = read_text(row, "label")
    return [Question(_read_prompt(row), label, label)]


def _read_prompt(row: Row) -> str:
    """Read the prompt; raise BadRecord where the record has more for a model to read, which would be lost."""
    prompt = read_text(row, "prompt")
    refuse_unread_of_row(row, TEXTS, ["prompt", "choices", "answer", "label"], Said([prompt]), done="read")
    return prompt


def parse_entities(row: Row, types: Mapping[str, str] | None = None) -> list[Question]:
    """Parse an entity record: `tokens` and BIO `tags`; `types` are the entities asked for, None: all."""
    tokens = check_texts(read_field(row, "tokens"), "tokens")
    tags = check_texts(read_field(row, "tags"), "tags")
    if not tokens:
        raise BadRecord("field 'tokens' is empty")
    if len(tokens) != len(tags):
        raise BadRecord(f"{len(tokens)} tokens, and {len(tags)} tags")
    for place, tag in enumerate(tags):
        if (tag != "O" and tag[:2] not in ("B-", "I-")) or len(tag) == 2:
            raise BadRecord(f"tags[{place}] is {tag!r}, neither O nor B- or I- and a type")
    kept = [tag if tag == "O" or types is None or tag[2:] in types else "O" for tag in tags]
    sentence = " ".join(tokens)
    return [Question(f"{sentence}\nExtract named entity:", format_entities(tokens, kept), kept, tokens=tokens)]


def format_entities(tokens: list[str], tags: list[str]) -> str:
    """Format the entities as an answer: `Acme Corp (ORG), Paris (LOC)`, or `None`."""
    named: list[tuple[list[str], str]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=True):
        if tag.startswith("I-") and before[2:] == tag[2:]:
            named[-1][0].append(token)
        elif tag != "O":
            named.append(([token], tag[2:]))
        before = tag
    return ", ".join(f"{' '.join(words)} ({type_})" for words, type_ in named) or "None"


KINDS: dict[str, TaskKind] = {
    "multiple-choice": TaskKind("multiple-choice", parse_choices, "accuracy"),
    "classification": TaskKind("classification", parse_labelled, "accuracy"),
    "entities": TaskKind("entities", parse_entities, "entityF1"),
}
