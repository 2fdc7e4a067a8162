"""Texts with a class, or with any number of classes: `text` (, `text_pair`), and `label` or `labels`.

A second text under another name, such as `sentence2` or `hypothesis`, is refused (`unread`): the class may be of both.

The classes are all that the data names: numbers first, in order of size, then the others in order of name. So output i
of the model is class i where they are numbered from 0 on without a gap, in JSON or as text ("0", "1.0"), whatever is
beside them. Where the numbers begin elsewhere or leave one out, outputs are still counted from 0: a warning says so,
and the model's `id2label` names each output's class. The data decides whether texts have one class (`label`) or several
(`labels`), the same for all of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
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
from runyard_trainer.data.sources.rows import BadRecord, Row, name_of_type
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.string())}
)

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledText:
    """A text, or a pair of texts, with its classes."""

    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    is_multi_label: bool
    place: str
    """The URI it was read from, with the line where there are several."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a row of JSONL."""
        pair = {} if self.text_pair is None else {"text_pair": self.text_pair}
        labels = {"labels": list(self.labels)} if self.is_multi_label else {"label": self.labels[0]}
        return {"text": self.text, **pair, **labels}


def parse_labelled_text(row: Row) -> LabelledText:
    """Read the text of a row and its classes, see the module; raises BadRecord."""
    given = [name for name in ("label", "labels") if name in row]
    if len(given) != 1:
        names = f"{row.name_of('label')!r} or {row.name_of('labels')!r}"
        found = "both" if given else "neither"
        raise BadRecord(
            f"expected one of the fields {names}, found {found}: name it in columns.label or columns.labels"
        )
    text = row.text("text")
    text_pair = row.text("text_pair") if "text_pair" in row else None
    if text_pair is None:
        read = {row.name_of(field) for field in ("text", "label", "labels")}
        unread.refuse_unread_of_row(row, unread.PAIRED_TEXTS, read, unread.Said([text]), done="read")
    value = row.fields[row.name_of(given[0])]
    if given[0] == "label":
        return LabelledText(text, text_pair, (_to_label(value, row.name_of("label")),), False, row.place)
    if not isinstance(value, list):
        raise BadRecord(f"field {row.name_of('labels')!r} is {name_of_type(value)}, not a list of classes")
    labels = tuple(_to_label(item, row.name_of("labels")) for item in value)
    return LabelledText(text, text_pair, labels, True, row.place)


def _to_label(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise BadRecord(f"field {name!r} has {name_of_type(value)} for a class: write its name, or a whole number")
    return str(value)


def order_classes(names: Iterable[str]) -> list[str]:
    """Return each class once, in the order of the model's outputs, see the module; equal numbers in order of name."""
    return sorted(set(names), key=_rank)


def _rank(name: str) -> tuple[bool, Decimal, str]:
    number = _to_number(name)
    return number is None, number or Decimal(), name


def _to_number(name: str) -> Decimal | None:
    """Return the number that a class is named by, exact however many digits it has; None where it is no number."""
    return Decimal(name.strip()) if _NUMBER.fullmatch(name.strip()) else None


def _warn_of_other_numbers(classes: Sequence[str]) -> None:
    """Warn where output i is not class i: no metric shows the mistake of taking one for the other."""
    for output, name in enumerate(classes):
        number = _to_number(name)
        if number is not None and number != output:
            log.warning(
                "the classes are numbers, and not those from 0 on: output %d of the model is class %r; id2label in "
                "its config.json names them all",
                output,
                name,
            )
            return


@dataclass
class LabelledTextEncoder:
    """Encodes texts as the model's own tokenizer lays them out, with special tokens, cut to the sequence length."""

    tokenizer: DocumentTokenizer
    length: int
    schema: pa.Schema = _SCHEMA
    labels: set[str] = field(default_factory=set)
    """Every class seen so far."""
    first: LabelledText | None = None
    """The first record, which decides for all whether they have one class or several."""

    def encode(self, records: Sequence[LabelledText]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        for record in records:
            self._note(record)
        inputs = [
            (record.text, record.text_pair) if record.text_pair is not None else record.text for record in records
        ]
        encodings = self.tokenizer.encode_inputs(inputs, self.length)
        return [[self._to_example(record, encoding)] for record, encoding in zip(records, encodings, strict=True)]

    def _to_example(self, record: LabelledText, encoding: Encoding) -> Example:
        columns = {
            "input_ids": encoding.ids,
            "token_type_ids": self.tokenizer.type_ids(encoding),
            "labels": list(record.labels),
        }
        text_bytes = len(record.text.encode()) + len((record.text_pair or "").encode())
        return Example(columns, text_bytes, is_truncated=bool(encoding.overflowing))

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        is_multi_label = self.first is not None and self.first.is_multi_label
        if self.first is not None and len(self.labels) < (1 if is_multi_label else 2):
            found = f"every text has the class {self.first.labels[0]!r}" if self.labels else "no text has any class"
            raise UserError(f"data.train: {found}: give texts of other classes too", ExitCode.DATA_ERROR)
        classes = order_classes(self.labels)
        _warn_of_other_numbers(classes)
        return {"labels": classes, "is_multi_label": is_multi_label}

    def _note(self, record: LabelledText) -> None:
        self.first = self.first or record
        self.labels.update(record.labels)
        if record.is_multi_label != self.first.is_multi_label:
            words = {False: "one class (label)", True: "a list of classes (labels)"}
            raise UserError(
                f"{record.place}: this text has {words[record.is_multi_label]}, and that at {self.first.place} has "
                f"{words[self.first.is_multi_label]}: write all of them alike",
                ExitCode.DATA_ERROR,
            )


@dataclass(frozen=True)
class LabelledTexts:
    """The samples of a stream, with the number of the class, or a 0 or 1 for each class."""

    examples: Examples
    label_ids: dict[str, int]
    is_multi_label: bool

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        example = self.examples[index]
        ids = [self.label_ids[label] for label in example["labels"]]
        return {
            "input_ids": example["input_ids"],
            "token_type_ids": example["token_type_ids"],
            "labels": self._to_target(ids),
        }

    @property
    def filler(self) -> Sample:
        """A text that belongs to no class."""
        token = np.zeros(1, dtype=np.int64)
        return {"input_ids": token, "token_type_ids": token, "labels": self._to_target([IGNORED])}

    def _to_target(self, ids: list[int]) -> Any:
        if not self.is_multi_label:
            return np.array(ids[0], dtype=np.int64)
        target = np.zeros(len(self.label_ids), dtype=np.int64)
        target[[i for i in ids if i != IGNORED]] = 1
        return np.full_like(target, IGNORED) if IGNORED in ids else target


def open_labelled_texts(dataset: Dataset, stream: str, _: Recipe) -> LabelledTexts:
    """Open the samples of a stream."""
    label_ids = {label: i for i, label in enumerate(dataset.info.labels)}
    return LabelledTexts(dataset.examples(stream), label_ids, dataset.info.is_multi_label)


DEFINITION = (
    "Each record is tokenized as the tokenizer lays out a text or a pair, special tokens and all, and cut to "
    "sequenceLength tokens. The loss is the mean cross-entropy over texts (of several classes: binary "
    "cross-entropy, over texts and classes), in nats. The metrics are scikit-learn's."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_labelled_text,
    identity=lambda record: record.text + (f"\n{record.text_pair}" if record.text_pair else ""),
    to_json=LabelledText.to_json,
    build_encoder=lambda tokenizer, recipe: LabelledTextEncoder(tokenizer, recipe.training.sequence_length),
    open_samples=open_labelled_texts,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=lambda columns: Shown([], ", ".join(columns["labels"])),
)
