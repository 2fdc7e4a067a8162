"""A made corpus of a thousand documents to choose from: noise, text like a task, and others."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from runyard_trainer.data.filters.selection import Excerpts

SUBJECTS = [
    "the bank",
    "the court",
    "the ministry",
    "our fund",
    "the board",
    "a regulator",
    "the auditor",
    "the lender",
]
VERBS = ["approved", "reviewed", "rejected", "published", "extended", "disputed", "financed", "restructured"]
OBJECTS = ["the annual report", "a bond issue", "the merger plan", "quarterly revenue", "a new loan", "the tax filing"]
TASK_SUBJECTS = [
    "net profit",
    "operating margin",
    "free cash flow",
    "diluted earnings",
    "gross income",
    "dividend yield",
]
TASK_VERBS = ["rose", "fell", "doubled", "declined", "improved", "stayed flat"]
KNOWN = ["the cat", "a child", "my neighbour", "the old dog", "the river", "our garden", "the teacher", "some bird"]
KNOWN_VERBS = ["likes", "watches", "follows", "leaves", "forgets", "carries", "remembers", "paints"]


def sentences(rng: random.Random, subjects: list[str], verbs: list[str], objects: list[str], count: int) -> str:
    return " ".join(
        f"{rng.choice(subjects).capitalize()} {rng.choice(verbs)} {rng.choice(objects)} in {rng.randrange(1990, 2030)}."
        for _ in range(count)
    )


def write_task(rng: random.Random) -> str:
    quarters = [f"by {rng.randrange(1, 40)} percent over quarter {i}" for i in range(1, 5)]
    return sentences(rng, TASK_SUBJECTS, TASK_VERBS, quarters, rng.randrange(8, 16))


def write_noise(rng: random.Random, kind: int) -> str:
    alphabet = (
        "abcdefghijklmnopqrstuvwxyz ",
        "0123456789abcdef",
        "".join(map(chr, range(0xC0, 0x24F))),
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+/0123456789",
    )[kind % 4]
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(300, 900)))


@cache
def corpus() -> dict[str, list[str]]:
    """By kind: 60 documents of noise, 40 like the task, 900 others; and what they are compared with."""
    rng = random.Random(0)
    return {
        "noise": [write_noise(rng, i) for i in range(60)],
        "task": [write_task(rng) for _ in range(40)],
        "other": [sentences(rng, SUBJECTS, VERBS, OBJECTS, rng.randrange(3, 20)) for _ in range(900)],
        "target": [write_task(rng) for _ in range(30)],
        "known": [sentences(rng, KNOWN, KNOWN_VERBS, KNOWN, 12) for _ in range(400)],
    }


def documents() -> list[tuple[str, str]]:
    """The thousand, in some order, with their kind."""
    made = [(kind, text) for kind in ("noise", "task", "other") for text in corpus()[kind]]
    random.Random(1).shuffle(made)
    return made


def keep_excerpts(folder: Path, texts: Iterable[str]) -> Excerpts:
    """The excerpts of these documents, kept in a file of the folder."""
    excerpts = Excerpts(folder / "excerpts")
    for text in texts:
        excerpts.add(text)
    return excerpts
