"""Decide the fate of every record once, while its stream is first read, and look it up whenever it is read again.

    held-out records ─> HeldOutHashes ─┐
    the first reading of a stream ─────┴─(Screen)─> Fates, a byte a record ─(data.select)─> Fates
    every later reading ─(look up)─> the same record with its fate

Records are not kept, as they may be terabytes. So `data.train` is read once for each thing that must be known of all of
it before the next one can begin, and no more often:

    1. the texts that are held out, where other texts are compared with them in part (near-duplicates, n-grams)
    2. the new tokens and the excerpts for `data.select`, in one reading, where either is asked for
    3. the shards

Only the first of readings 2 and 3 decides. `data.validation.sources` is read before `data.train` and once more for its
shards, `evaluation.general` likewise where records are compared with its n-grams; and `data.replay.sources` is read
twice where `data.select` takes it for what the model knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.filters.fates import Fate, Fates, LeftOutReason
from runyard_trainer.data.filters.screening import HeldOutHashes, Screen, is_held_out
from runyard_trainer.data.filters.selection import Excerpts, choose_documents
from runyard_trainer.data.records.kinds import COMPARED, kind_of
from runyard_trainer.data.sources.rows import Problem
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer
from runyard_trainer.preparation.record_streams import RecordStreams, SourceRecord, read_valid, text_of


@dataclass(frozen=True)
class DecidedRecord:
    """One record of a stream and what becomes of it."""

    source: int
    """Its source's number in the recipe's list."""
    record: Any
    """The record; or the Problem of a row that holds none and is left out as invalid."""
    fate: Fate


class DecidedStreams:
    """The records of a run's streams, each with its fate."""

    def __init__(self, recipe: Recipe, streams: RecordStreams) -> None:
        self.recipe = recipe
        self.undecided = streams
        self._fates: dict[str, Fates] = {}

    @property
    def names(self) -> list[str]:
        """The streams whose records have a fate, in order; a record of `train` may be held out for `validation`."""
        return [name for name in self.undecided.names if name not in COMPARED]

    def is_decided(self, stream: str) -> bool:
        """Return whether a stream has been read to its end."""
        return stream in self._fates

    def read(self, stream: str, activity: str) -> Iterator[DecidedRecord]:
        """Read a stream's records in order, each with its fate; `activity` names the reading in the log.

        Raises:
            UserError: DATA_ERROR where there are more or fewer records than when their fates were decided.
        """
        records = self.undecided.read(stream, activity)
        return self._look_up(records, self._fates[stream]) if stream in self._fates else self._decide(stream, records)

    def select(self, reasons: Sequence[LeftOutReason | None]) -> None:
        """Leave out each document of `data.train` that has a reason, of those that may be trained on."""
        self._fates["train"].select(reasons)

    @cached_property
    def _screen(self) -> Screen:
        return Screen(self.recipe.data, gather_held_out(self.recipe, self.undecided))

    def _decide(self, stream: str, records: Iterator[SourceRecord]) -> Iterator[DecidedRecord]:
        kind, fates = kind_of(self.recipe, stream), Fates()
        for source, record in records:
            if isinstance(record, Problem):
                fate = Fate(stream, "invalid")
            else:
                fate = self._screen.decide(stream, kind.identity(record), kind.to_json(record))
            fates.append(fate)
            yield DecidedRecord(source, record, fate)
        self._fates[stream] = fates

    def _look_up(self, records: Iterator[SourceRecord], fates: Fates) -> Iterator[DecidedRecord]:
        for found, fate in zip_longest(records, fates):
            if found is None or fate is None:
                raise self._refuse_changed_files()
            source, record = found
            yield DecidedRecord(source, record, fate)

    def _refuse_changed_files(self) -> UserError:
        activity = "tokens were learned from them" if self.recipe.data.select is None else "data.select chose from them"
        return UserError(
            f"data.train: its files have changed while {activity}: apply the run again when they are whole",
            ExitCode.DATA_ERROR,
        )


def gather_held_out(recipe: Recipe, streams: RecordStreams) -> HeldOutHashes:
    """Read the held-out records that others are compared with, before any other record is decided on."""
    data, held_out = recipe.data, HeldOutHashes(recipe.data)
    activity, fraction = "looking at held-out data", data.validation.held_out_fraction
    compares_parts = data.decontaminate is not None or data.deduplicate == "near"
    if "validation" in streams.names:
        for identity in _read_identities(recipe, streams, "validation", activity):
            held_out.add_validation(identity)
    if fraction > 0 and compares_parts:
        for identity in _read_identities(recipe, streams, "train", activity):
            if is_held_out(identity, fraction):
                held_out.add_validation(identity)
    if "general" in streams.names and data.decontaminate is not None:
        for identity in _read_identities(recipe, streams, "general", activity):
            held_out.add_general(identity)
    return held_out


def _read_identities(recipe: Recipe, streams: RecordStreams, stream: str, activity: str) -> Iterator[str]:
    return map(kind_of(recipe, stream).identity, read_valid(streams, stream, activity))


# ----------------------------------------------------------------------------------------------------------- data.train


def open_excerpts(recipe: Recipe, scratch_dir: Path) -> AbstractContextManager[Excerpts | None]:
    """Open a scratch file for excerpts of `data.train`; None where no `data.select` asks for them."""
    return nullcontext() if recipe.data.select is None else Excerpts(scratch_dir / "excerpts")


def read_candidate_texts(
    decided: DecidedStreams, to_text: Callable[[Any], str], excerpts: Excerpts | None, activity: str
) -> Iterator[str]:
    """Read the text of each record that may be trained on, and keep an excerpt of it where `data.select` needs one."""
    for each in decided.read("train", activity):
        if each.fate.is_trained_on:
            text = to_text(each.record)
            if excerpts is not None:
                excerpts.add(text)
            yield text


def select_documents(decided: DecidedStreams, excerpts: Excerpts | None, tokenizer: DocumentTokenizer) -> None:
    """Leave out what `data.select` does not choose; nothing where the recipe does not ask for it.

    Args:
        decided: the run's records.
        excerpts: excerpts of `data.train` if it has been read, else empty.
        tokenizer: the run's.
    """
    recipe, streams = decided.recipe, decided.undecided
    select = recipe.data.select
    if select is None or excerpts is None:
        return

    def to_text(stream: str) -> Callable[[Any], str]:
        return lambda record: text_of(kind_of(recipe, stream), record, tokenizer)

    def read_texts(stream: str, activity: str) -> Iterator[str]:
        return filter(str.strip, map(to_text(stream), read_valid(streams, stream, activity)))

    if not decided.is_decided("train"):
        for _ in read_candidate_texts(decided, to_text("train"), excerpts, "choosing from data.train"):
            pass  # each leaves its excerpt
    reasons = choose_documents(
        select,
        recipe.training.seed,
        excerpts,
        read_texts("target", "reading data.select.target"),
        read_texts("reference" if "reference" in streams.names else "replay", "reading text that the model knows"),
        tokenizer,
    )
    decided.select(reasons)
