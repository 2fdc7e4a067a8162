"""Questions whose answers stand in a text: `id`, `context`, `question` and `answers`, as SQuAD has them.

    context   The Nile is a river in Africa.
    question  Where is the Nile?
    answers   {"text": ["in Africa", "Africa"], "answer_start": [20, 23]}      characters, from 0

A context that does not fit becomes several windows, each with the whole question before it, that overlap by STRIDE
tokens (by half of their room where that is less). What is learned of a window is the first and the last token of the
first answer; the first token of all where that answer is not wholly in the window. All questions about one context are
held out together.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Encoding

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records import unread
from runyard_trainer.data.records.base import Example, RecordKind, Sample, Shown
from runyard_trainer.data.sources.rows import BadRecord, Row, check_texts, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

STRIDE = 128
"""Tokens of the context that a window shares with the one before."""

MIN_CONTEXT_SHARE = 0.5
"""The least share of a window's tokens that the context has."""

_SHOWN_CHARACTERS = 40
_SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "token_type_ids": pa.list_(pa.int32()),
        "start_position": pa.int32(),
        "end_position": pa.int32(),
        "question": pa.int64(),  # its number among all that were read: what windows of one question share
        "first_token": pa.int32(),  # of the context
        "starts": pa.list_(pa.int32()),  # of each token of the context, in `text`
        "stops": pa.list_(pa.int32()),
        "text": pa.string(),  # what of the context this window shows
        "answers": pa.list_(pa.string()),
    }
)


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question about a text, with the answers that stand there."""

    id: str | None
    context: str
    question: str
    answers: tuple[str, ...]
    answer_starts: tuple[int, ...]
    """The place of each answer's first character in the context."""
    place: str
    """The URI it was read from, with the line where there are several."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a row of JSONL."""
        return {
            **({} if self.id is None else {"id": self.id}),
            "context": self.context,
            "question": self.question,
            "answers": {"text": list(self.answers), "answer_start": list(self.answer_starts)},
        }


def parse_question(row: Row) -> AnsweredQuestion:
    """Read the question of a row, its context and its answers, see the module; raises BadRecord."""
    name = row.text("id") if "id" in row else None
    context, question = row.text("context"), row.text("question")
    if not question.strip():
        raise BadRecord(f"field {row.name_of('question')!r} is empty: leave out rows without a question")
    read = {row.name_of(field) for field in ("id", "context", "question", "answers")}
    unread.refuse_unread_of_row(row, unread.QUESTIONS, read, unread.Said([context, question]))
    texts, starts = _parse_answers(row.value("answers"), row.name_of("answers"))
    for number, (text, start) in enumerate(zip(texts, starts, strict=True)):
        _check_answer(context, text, start, row.name_of("answers"), number)
    return AnsweredQuestion(name, context, question, tuple(texts), tuple(starts), row.place)


def _parse_answers(value: object, name: str) -> tuple[list[str], list[int]]:
    if not isinstance(value, dict):
        raise BadRecord(f"field {name!r} is {name_of_type(value)}, not an object with text and answer_start")
    for part in ("text", "answer_start"):
        if part not in value:
            found = ", ".join(sorted(value)) or "nothing"
            raise BadRecord(f"field {name!r} has no {part!r}, found {found}: it needs the lists text and answer_start")
    texts, starts = check_texts(value["text"], f"{name}.text"), value["answer_start"]
    if not isinstance(starts, list):
        raise BadRecord(f"field '{name}.answer_start' is {name_of_type(starts)}, not a list of whole numbers")
    for number, start in enumerate(starts):
        if isinstance(start, bool) or not isinstance(start, int):
            raise BadRecord(f"field '{name}.answer_start[{number}]' is {name_of_type(start)}, not a whole number")
    if len(texts) != len(starts):
        raise BadRecord(
            f"field {name!r} has {len(texts)} of text and {len(starts)} of answer_start: give each answer its place"
        )
    if not texts:
        raise BadRecord(f"field {name!r} has no answer: leave out questions that the context does not answer")
    return texts, starts


def _check_answer(context: str, text: str, start: int, name: str, number: int) -> None:
    if not text.strip():
        raise BadRecord(f"field '{name}.text[{number}]' is {text!r}: an answer has at least one character")
    if start >= 0 and context.startswith(text, start):
        return
    field = f"field '{name}.answer_start[{number}]' is {start}"
    found = context[start : start + len(text)] if start >= 0 else ""
    there = f"where the context has {_shorten(found)}" if found else f"outside the context's {len(context)} characters"
    nearest = _find_nearest(context, text, start)
    remedy = "the context does not have that text" if nearest is None else f"that text begins at {nearest}"
    raise BadRecord(f"{field}, {there}, not {_shorten(text)}: {remedy} (characters count from 0, not bytes)")


def _find_nearest(context: str, text: str, start: int) -> int | None:
    start = max(start, 0)
    found = (context.rfind(text, 0, start + len(text)), context.find(text, start))
    return min((place for place in found if place >= 0), key=lambda place: abs(place - start), default=None)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


# -------------------------------------------------------------------------------------------------------------- windows


def cut_windows(tokens: range, room: int) -> list[range]:
    """Cut a context's tokens into windows of at most `room` tokens, each but the first overlapping the one before."""
    step = room - min(STRIDE, room // 2)
    num_more = -(-max(len(tokens) - room, 0) // step)
    return [tokens[number * step : number * step + room] for number in range(1 + num_more)]


def find_answer(starts: Sequence[int], stops: Sequence[int], first: int, end: int) -> tuple[int, int] | None:
    """Return the first and last of a window's tokens that have any of the characters [first, end); None if not all are
    there.

    Args:
        starts: first character of each token.
        stops: the character after each token's last.
        first: of the answer.
        end: the character after the answer.
    """
    if starts[0] > first or stops[-1] < end:
        return None
    return bisect_right(stops, first), bisect_left(starts, end) - 1


@dataclass
class QuestionEncoder:
    """Encodes question and context as the model's own tokenizer lays out a pair."""

    tokenizer: DocumentTokenizer
    length: int
    schema: pa.Schema = _SCHEMA
    num_questions: int = 0
    """The number of questions seen so far."""

    def encode(self, records: Sequence[AnsweredQuestion]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        pairs = [(record.question, record.context) for record in records]
        encodings = self.tokenizer.encode_whole(pairs)
        return [list(self._to_examples(record, whole)) for record, whole in zip(records, encodings, strict=True)]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        return {}

    def _to_examples(self, record: AnsweredQuestion, whole: Encoding) -> Iterator[Example]:
        self.num_questions += 1
        places = [place for place, sequence in enumerate(whole.sequence_ids) if sequence == 1]
        if not places:
            return
        context = range(places[0], places[-1] + 1)
        room = self.length - (len(whole.ids) - len(context))
        if room < MIN_CONTEXT_SHARE * self.length:
            raise UserError(
                f"{record.place}: the question leaves {max(room, 0)} of training.sequenceLength {self.length} tokens "
                "for the context, less than half: shorten it, or lengthen training.sequenceLength",
                ExitCode.DATA_ERROR,
            )
        # each is copied whenever an encoding is asked for it
        ids, type_ids, offsets = whole.ids, self.tokenizer.type_ids(whole), whole.offsets
        for window in cut_windows(context, room):
            kept = [*range(context.start), *window, *range(context.stop, len(ids))]
            columns = {
                "input_ids": [ids[place] for place in kept],
                "token_type_ids": [type_ids[place] for place in kept],
                "question": self.num_questions,
                **_describe_context(record, context.start, [offsets[place] for place in window]),
            }
            yield Example(columns, len(columns["text"].encode()))


def _describe_context(record: AnsweredQuestion, first_token: int, offsets: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Describe what a window shows of the context, and where in it the answer is."""
    starts, stops = zip(*offsets, strict=True)
    answer_start = record.answer_starts[0]
    answer = find_answer(starts, stops, answer_start, answer_start + len(record.answers[0]))
    return {
        "start_position": first_token + answer[0] if answer else 0,
        "end_position": first_token + answer[1] if answer else 0,
        "first_token": first_token,
        "starts": [start - starts[0] for start in starts],
        "stops": [stop - starts[0] for stop in stops],
        "text": record.context[starts[0] : stops[-1]],
        "answers": list(record.answers),
    }


# -------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Windows:
    """The samples of a stream: its windows."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        example = self.examples[index]
        positions = {f"{name}s": np.array(example.pop(name), np.int64) for name in ("start_position", "end_position")}
        return example | positions

    @property
    def filler(self) -> Sample:
        """A window of one token, without an answer."""
        token, ignored = np.zeros(1, dtype=np.int64), np.array(IGNORED, dtype=np.int64)
        return {"input_ids": token, "token_type_ids": token, "start_positions": ignored, "end_positions": ignored}


def open_windows(dataset: Dataset, stream: str, _: Recipe) -> Windows:
    """Open the samples of a stream."""
    return Windows(dataset.examples(stream))


def show_answer(columns: dict[str, Any]) -> Shown:
    """Show the answer's tokens, where this window has them."""
    start, end = columns["start_position"], columns["end_position"]
    return Shown([(start, end + 1)] if end else [], columns["answers"][0])


DEFINITION = (
    "Question and context are tokenized as a pair, in windows of at most sequenceLength tokens that overlap by 128 "
    "tokens of the context (by half of their room where that is less). The loss of a window is the mean of the "
    "cross-entropies of the first and of the last token over the window's tokens, in nats. The answer is the span "
    "of at most 30 tokens of the context, over all windows, whose two logits have the highest sum. Exact match and "
    "F1 compare answers as SQuAD's script does, as shares of 1."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_question,
    identity=lambda record: record.context,
    to_json=AnsweredQuestion.to_json,
    build_encoder=lambda tokenizer, recipe: QuestionEncoder(tokenizer, recipe.training.sequence_length),
    open_samples=open_windows,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=show_answer,
)
