"""The fate of a record: the stream that it is in, or the reason to leave it out.

record ─(screening, once)─> Fate ─(selection, where asked for)─> Fate
Fates: those of a stream's records in order, a byte each, for whoever reads the same records again
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from runyard_trainer.data.dataset.manifest import StreamInfo

LeftOutReason = Literal[
    "invalid", "empty", "duplicate", "nearDuplicate", "heldOut", "contaminated", "noise", "notSelected"
]

LEFT_OUT_TEXT: dict[str, str] = {
    "invalid": "invalid",
    "empty": "empty",
    "duplicate": "duplicate",
    "nearDuplicate": "near-duplicate",
    "heldOut": "also in data.validation.sources",
    "contaminated": "with words of held-out data",
    "noise": "left out as noise by data.select",
    "notSelected": "not chosen by data.select",
}
"""Describes one record that was left out, or follows a count of them."""

STREAMS = ("train", "replay", "validation", "general")
"""The streams that a dataset may have."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one record."""

    stream: str
    """One of `STREAMS`; a record of `data.train` is of `train` or of `validation`."""
    left_out: LeftOutReason | None = None
    """Why the record is not in that stream; None where it is."""

    @property
    def is_trained_on(self) -> bool:
        """Whether the record is one of the domain's that the run learns from."""
        return self.stream == "train" and self.left_out is None


_FATES = [Fate(stream, reason) for stream, reason in product(STREAMS, (None, *get_args(LeftOutReason)))]
"""Every fate there is; a fate is stored as its place in this list."""
_CODES = {fate: code for code, fate in enumerate(_FATES)}


class Fates:
    """The fates of a stream's records, in order; a byte a record."""

    def __init__(self) -> None:
        self._codes = bytearray()

    def append(self, fate: Fate) -> None:
        """Store the fate of the next record."""
        self._codes.append(_CODES[fate])

    def select(self, reasons: Sequence[LeftOutReason | None]) -> None:
        """Leave out, of the records that are trained on, each that has a reason.

        Args:
            reasons: one for each record that is trained on so far, in order; None keeps the record.
        """
        trained = (place for place, fate in enumerate(self) if fate.is_trained_on)
        for place, reason in zip(trained, reasons, strict=True):
            self._codes[place] = _CODES[Fate("train", reason)]

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[Fate]:
        return (_FATES[code] for code in self._codes)


def describe_left_out(info: StreamInfo) -> list[str]:
    """List how many records of a stream were left out or cut, by reason: `3 empty`, `1 truncated`."""
    counts = {LEFT_OUT_TEXT[reason]: count for reason, count in info.left_out.items()}
    counts |= {"with nothing to train on": info.dropped, "truncated": info.truncated}
    return [f"{count:,} {text}" for text, count in counts.items() if count]
