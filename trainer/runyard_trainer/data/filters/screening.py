"""Decide the fate of each record: hold it out, or leave it out as empty, a duplicate, or too like held-out data.

    held-out records ─> HeldOutHashes: what must not be trained on, complete before any record is decided on
    record ─(Screen, which remembers the records before it)─> Fate

Of equal records the first is kept, so preparing the same files again gives the same dataset. Texts are remembered as
hashes of 16 bytes: a million records take some 100 MB, with `data.deduplicate: near` some 2 GB.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runyard_trainer.contract.data import Data
from runyard_trainer.data.filters.fates import Fate, LeftOutReason

if TYPE_CHECKING:
    from datasketch import MinHash

_NEAR_THRESHOLD = 0.8
_NUM_PERMUTATIONS = 128
_SHINGLE_WORDS = 5


def is_held_out(text: str, fraction: float) -> bool:
    """Return whether a record is for validation: by a hash of its text, so that all copies of a text share one side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class HeldOutHashes:
    """The texts that must not be trained on, as hashes of the texts and of their n-grams."""

    def __init__(self, data: Data) -> None:
        self._ngram = data.decontaminate.ngram if data.decontaminate is not None else None
        self._identities: set[bytes] = set()
        self._ngrams: set[bytes] = set()
        self._near = NearIndex() if data.deduplicate == "near" else None

    def add_validation(self, identity: str) -> None:
        """Add the text of a held-out record of the domain."""
        self._identities.add(_digest(identity))
        if self._near is not None:
            self._near.add(identity)
        self.add_general(identity)

    def add_general(self, identity: str) -> None:
        """Add a text of `evaluation.general`: only its n-grams must not be trained on."""
        if self._ngram is not None:
            self._ngrams.update(_hash_ngrams(identity, self._ngram))

    def find_reason(self, stream: str, identity: str) -> LeftOutReason | None:
        """Return why a record of `train` or `replay` must not be trained on, or None."""
        if stream == "train" and _digest(identity) in self._identities:
            return "heldOut"
        if self._ngram is not None and any(each in self._ngrams for each in _hash_ngrams(identity, self._ngram)):
            return "contaminated"
        if stream == "train" and self._near is not None and self._near.has(identity):
            return "nearDuplicate"
        return None


class Screen:
    """The decision on each record of each stream; every record is shown to it once, in order."""

    def __init__(self, data: Data, held_out: HeldOutHashes) -> None:
        self._held_out_fraction = data.validation.held_out_fraction
        self._deduplicate = data.deduplicate
        self._held_out = held_out
        self._seen: dict[str, set[bytes]] = defaultdict(set)
        self._near: dict[str, NearIndex] = defaultdict(NearIndex)

    def decide(self, stream: str, identity: str, content: dict[str, Any]) -> Fate:
        """Decide the fate of the next record of a stream.

        Args:
            stream: the stream whose files hold the record.
            identity: the record's text; no two that have it in common may be trained on and held out.
            content: the whole record: the same text with another label is no duplicate.
        """
        is_split = stream == "train" and is_held_out(identity, self._held_out_fraction)
        target = "validation" if is_split else stream
        return Fate(target, self._find_reason(target, identity, content))

    def _find_reason(self, stream: str, identity: str, content: dict[str, Any]) -> LeftOutReason | None:
        if not identity.strip():
            return "empty"
        is_trained_on = stream in ("train", "replay")
        if is_trained_on and (reason := self._held_out.find_reason(stream, identity)):
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
    """Texts among which near-duplicates of another text are found, by MinHash of their word 5-grams."""

    def __init__(self) -> None:
        from datasketch import MinHashLSH  # deferred: it loads scipy, which takes seconds that few runs need

        self._lsh = MinHashLSH(threshold=_NEAR_THRESHOLD, num_perm=_NUM_PERMUTATIONS)
        self._count = 0

    def has(self, text: str) -> bool:
        """Return whether a text that was added is near this one."""
        return bool(self._lsh.query(_sign(text)))

    def add(self, text: str) -> None:
        """Add a text."""
        self._lsh.insert(self._count, _sign(text))
        self._count += 1


@lru_cache(maxsize=2)
def _sign(text: str) -> MinHash:
    """Compute the MinHash signature of a text; cached, because a text is looked up and then added."""
    from datasketch import MinHash  # deferred: it loads scipy, which takes seconds that few runs need

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
