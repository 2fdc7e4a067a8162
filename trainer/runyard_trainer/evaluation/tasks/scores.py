"""Compute the metrics of a task from a model's answers. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import fmean

from runyard_trainer.evaluation.tasks.items import FrozenTask, Item

MISSING = "missing"
"""Metric: the share of answers in which no label, or no list of entities, is found."""


def score_choices(items: Sequence[Item], likelihoods: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the accuracy of the likeliest choice: by log-likelihood, per character, and per UTF-8 byte."""
    lengths: dict[str, Callable[[str], int]] = {
        "accuracy": lambda _: 1,
        "accuracyPerCharacter": len,
        "accuracyPerByte": lambda choice: len(choice.encode()),
    }
    return {
        name: fmean(
            _first_of_most([value / length(choice) for value, choice in zip(values, item.choices, strict=True)])
            == item.target
            for item, values in zip(items, likelihoods, strict=True)
        )
        for name, length in lengths.items()
    }


def _first_of_most(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: (values[place], -place))


def first_line(text: str) -> str:
    """Return the first line of an answer: text after it begins another question."""
    return text.strip().partition("\n")[0].strip()


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """Find the label that stands first in the answer, as a word in any case; the longer of two at one place."""
    places = [
        (found.start(), -len(label), label)
        for label in labels
        if (found := re.search(rf"(?<!\w){re.escape(label)}(?!\w)", first_line(text), re.IGNORECASE))
    ]
    return min(places)[2] if places else None


def find_entities(text: str, tokens: Sequence[str]) -> list[str] | None:
    """Return BIO tags of the words for an answer such as `Acme Corp (ORG), Paris (LOC)`; None where it is neither
    such a list nor `None`.

    Each entity takes its first place in the text that no earlier one has taken; one that is not there is skipped.
    """
    answer = first_line(text)
    named = re.findall(r"([^(),][^()]*?)\s*\(([^()]+)\)", answer)
    if not named and not re.match(r"none\b", answer, re.IGNORECASE):
        return None
    tags = ["O"] * len(tokens)
    for name, type_ in named:
        words = name.strip(" ,").split()
        for start in range(len(tokens) - len(words) + 1 if words else 0):
            end = start + len(words)
            if list(tokens[start:end]) == words and set(tags[start:end]) == {"O"}:
                tags[start:end] = [f"B-{type_.strip()}"] + [f"I-{type_.strip()}"] * (len(words) - 1)
                break
    return tags


def score_texts(task: FrozenTask, texts: Sequence[str]) -> dict[str, float]:
    """Return the metrics of a task whose answers are written texts."""
    return (_score_entities if task.type == "entities" else _score_labels)(task, texts)


def _score_labels(task: FrozenTask, texts: Sequence[str]) -> dict[str, float]:
    from sklearn.metrics import f1_score  # deferred: slow to load, and only rank 0 scores

    predicted = [find_label(text, task.labels) for text in texts]
    pairs = [
        (item.group, item.target, label or f"\0{MISSING}") for item, label in zip(task.items, predicted, strict=True)
    ]
    groups = [
        [(want, label) for name, want, label in pairs if name == group] for group in sorted({p[0] for p in pairs})
    ]
    f1 = [f1_score(*zip(*group, strict=True), average="weighted", zero_division=0.0) for group in groups]
    return {
        "accuracy": fmean(want == label for _, want, label in pairs),
        "weightedF1": float(fmean(f1)),
        MISSING: fmean(label is None for label in predicted),
    }


def _score_entities(task: FrozenTask, texts: Sequence[str]) -> dict[str, float]:
    from seqeval.metrics import f1_score, precision_score, recall_score

    predicted = [find_entities(text, item.tokens) for text, item in zip(texts, task.items, strict=True)]
    want = [item.target for item in task.items]
    found = [tags or ["O"] * len(item.tokens) for tags, item in zip(predicted, task.items, strict=True)]
    return {
        "entityF1": float(f1_score(want, found, zero_division=0)),
        "entityPrecision": float(precision_score(want, found, zero_division=0)),
        "entityRecall": float(recall_score(want, found, zero_division=0)),
        MISSING: fmean(tags is None for tags in predicted),
    }
