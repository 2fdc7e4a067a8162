"""Which records are left out, though nothing is wrong with them: empty ones, duplicates, what is held out.

    HeldOut: hashes of what must not be trained on, gathered before anything is written, as far as it is needed
    Screen: one pass over the streams; of each record, the reason to leave it out, or None

Which of several that are the same is kept depends on their order alone, so preparing again gives the same. Texts are
kept as hashes of 16 bytes: a million records take some 100 MB, with `near` some 2 GB.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from runyard_trainer.contract.data import Data
from runyard_trainer.data.dataset.manifest import StreamInfo

if TYPE_CHECKING:
    from datasketch import MinHash

Reason = Literal["invalid", "empty", "duplicate", "nearDuplicate", "heldOut", "contaminated", "noise", "notSelected"]

REASON_WORDS: dict[str, str] = {
    "invalid": "invalid",
    "empty": "empty",
    "duplicate": "duplicate",
    "nearDuplicate": "near-duplicate",
    "heldOut": "also in data.validation.sources",
    "contaminated": "with words of held-out data",
    "noise": "left out as noise by data.select",
    "notSelected": "not chosen by data.select",
}
"""How one of them, or a count of them, is told."""

_NEAR_THRESHOLD = 0.8
_NUM_PERMUTATIONS = 128
_SHINGLE_WORDS = 5


def tell_left_out(info: StreamInfo) -> list[str]:
    """What of a stream's sources is not in it, and what of it is cut, such as `3 empty`."""
    counts = {REASON_WORDS[reason]: count for reason, count in info.left_out.items()}
    counts |= {"with nothing to train on": info.dropped, "truncated": info.truncated}
    return [f"{count:,} {words}" for words, count in counts.items() if count]


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a record is for validation: a function of its text, so that copies of it stay on one side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class HeldOut:
    """What must not be trained on."""

    def __init__(self, data: Data) -> None:
        self._ngram = data.decontaminate.ngram if data.decontaminate is not None else None
        self._identities: set[bytes] = set()
        self._ngrams: set[bytes] = set()
        self._near = NearIndex() if data.deduplicate == "near" else None

    def add_validation(self, identity: str) -> None:
        """A record of `data.validation`."""
        self._identities.add(_digest(identity))
        if self._near is not None:
            self._near.add(identity)
        self.add_general(identity)

    def add_general(self, identity: str) -> None:
        """A record of `evaluation.general`: only its n-grams count."""
        if self._ngram is not None:
            self._ngrams.update(_hash_ngrams(identity, self._ngram))

    def reason(self, stream: str, identity: str) -> Reason | None:
        """Why a record of `train` or `replay` must not be trained on."""
        if stream == "train" and _digest(identity) in self._identities:
            return "heldOut"
        if self._ngram is not None and any(each in self._ngrams for each in _hash_ngrams(identity, self._ngram)):
            return "contaminated"
        if stream == "train" and self._near is not None and self._near.has(identity):
            return "nearDuplicate"
        return None


class Screen:
    """One pass over the records of all streams."""

    def __init__(self, data: Data, held_out: HeldOut) -> None:
        self._deduplicate = data.deduplicate
        self._held_out = held_out
        self._seen: dict[str, set[bytes]] = defaultdict(set)
        self._near: dict[str, NearIndex] = defaultdict(NearIndex)

    def reason(self, stream: str, identity: str, content: dict[str, Any]) -> Reason | None:
        """Why a record is to be left out of a stream.

        Args:
            stream: where it would go.
            identity: its text; no two that have it in common may be trained on and held out.
            content: all of it: the same text with another label is no duplicate.
        """
        if not identity.strip():
            return "empty"
        is_trained_on = stream in ("train", "replay")
        if is_trained_on and (reason := self._held_out.reason(stream, identity)):
            return reason
        if self._deduplicate == "none":
            return None
        digest = _digest(json.dumps(content, sort_keys=True))
        if digest in self._seen[stream]:
            return "duplicate"
        self._seen[stream].add(digest)
        if is_trained_on and self._deduplicate == "near":
            if self._near[stream].has(identity):
                return "nearDuplicate"
            self._near[stream].add(identity)
        return None


class NearIndex:
    """Texts, to be asked whether one is near any of them."""

    def __init__(self) -> None:
        from datasketch import MinHashLSH  # deferred: it loads scipy, which takes seconds that few runs need

        self._lsh = MinHashLSH(threshold=_NEAR_THRESHOLD, num_perm=_NUM_PERMUTATIONS)
        self._count = 0

    def has(self, text: str) -> bool:
        """Whether there is one near it."""
        return bool(self._lsh.query(_sign(text)))

    def add(self, text: str) -> None:
        """Keep it."""
        self._lsh.insert(self._count, _sign(text))
        self._count += 1


@lru_cache(maxsize=2)
def _sign(text: str) -> MinHash:
    """Its signature; kept, since the same text is asked about and then added."""
    from datasketch import MinHash  # deferred, as above

    signature = MinHash(num_perm=_NUM_PERMUTATIONS, seed=1)
    words = _words(text)
    shingles = list(_ngrams(words, _SHINGLE_WORDS)) or [" ".join(words)]
    signature.update_batch([shingle.encode() for shingle in shingles])
    return signature


def _hash_ngrams(text: str, size: int) -> Iterator[bytes]:
    return (hashlib.blake2b(each.encode(), digest_size=8).digest() for each in _ngrams(_words(text), size))


def _ngrams(words: list[str], size: int) -> Iterator[str]:
    return (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
