"""Financial tasks that papers report, as docs/evaluation-tasks.md describes them."""

from __future__ import annotations

from functools import partial

from runyard_trainer.data.sources.rows import BadRecord, Row, name_of_type
from runyard_trainer.evaluation.tasks.kinds import Question, TaskKind, parse_entities, read_field, read_text

SENTIMENTS = ("negative", "neutral", "positive")
_NEUTRAL_SCORE = 0.1

HEADLINE_QUESTIONS = {
    "Price or Not": "Does the news headline talk about price?",
    "Direction Up": "Does the news headline talk about price going up?",
    "Direction Constant": "Does the news headline talk about price staying constant?",
    "Direction Down": "Does the news headline talk about price going down?",
    "PastPrice": "Does the news headline talk about price in the past?",
    "FuturePrice": "Does the news headline talk about price in the future?",
    "PastNews": "Does the news headline talk about a general event (apart from prices) in the past?",
    "FutureNews": "Does the news headline talk about a general event (apart from prices) in the future?",
    "Asset Comparision": "Does the news headline compare gold with any other asset?",
}
"""Question by column name, spelled as published."""


def parse_phrasebank(row: Row) -> list[Question]:
    """Parse a record of `sentence`, and `label` as a word or as its number."""
    label = read_field(row, "label")
    known = dict(enumerate(SENTIMENTS)) | {name: name for name in SENTIMENTS}
    if isinstance(label, bool | list | dict) or label not in known:
        raise BadRecord(f"field 'label' is {label!r}, not one of {', '.join(SENTIMENTS)}, or 0, 1, 2 for these")
    sentence = read_text(row, "sentence")
    return [Question(f"{sentence}\nQuestion: what is the sentiment?\nAnswer:", known[label], known[label])]


def parse_fiqa(row: Row) -> list[Question]:
    """Parse a record of `sentence`, `target`, and `sentiment_score` from -1 to 1."""
    label = classify_sentiment(_read_number(row, "sentiment_score", -1.0, 1.0))
    sentence, target = read_text(row, "sentence"), read_text(row, "target")
    return [Question(f"{sentence}\nQuestion: what is the sentiment on {target}?\nAnswer:", label, label)]


def classify_sentiment(score: float) -> str:
    """Return the sentiment of a score: neutral where it is less than 0.1 from 0."""
    return "neutral" if abs(score) < _NEUTRAL_SCORE else "positive" if score > 0 else "negative"


def parse_headline(row: Row) -> list[Question]:
    """Parse a record of `News`, and nine columns of 0 or 1: a question each."""
    news = read_text(row, "News")
    answers = {name: ("No", "Yes")[int(_read_number(row, name, 0, 1, is_whole=True))] for name in HEADLINE_QUESTIONS}
    return [
        Question(f"{news}\nQuestion: {HEADLINE_QUESTIONS[name]}\nAnswer:", answer, answer, group=name)
        for name, answer in answers.items()
    ]


def _read_number(row: Row, name: str, least: float, most: float, is_whole: bool = False) -> float:
    """Read a number from JSON or from the text of a CSV cell; raise BadRecord where it is none in range."""
    value = read_field(row, name)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except ValueError:
        number = None
    if number is None:
        found = repr(value) if isinstance(value, str) else name_of_type(value)
        raise BadRecord(f"field {name!r} is {found}, not a number")
    if not least <= number <= most or (is_whole and number != int(number)):
        wanted = f"{least:g} or {most:g}" if is_whole else f"between {least:g} and {most:g}"
        raise BadRecord(f"field {name!r} is {number:g}, not {wanted}")
    return number


_NER_TYPES = {"PER": "person", "LOC": "location", "ORG": "organization"}

PRESETS: dict[str, TaskKind] = {
    "financial-phrasebank": TaskKind("classification", parse_phrasebank, "weightedF1", SENTIMENTS),
    "fiqa-sentiment": TaskKind("classification", parse_fiqa, "weightedF1", SENTIMENTS),
    "financial-headlines": TaskKind("classification", parse_headline, "weightedF1", ("No", "Yes")),
    "financial-ner": TaskKind("entities", partial(parse_entities, types=_NER_TYPES), "entityF1"),
}
