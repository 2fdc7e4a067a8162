"""What is told of a document: how like a task's text it is, how new to a model, how varied.

    TaskSimilarity  cosine of its TF-IDF of character 4-grams to the mean of the target's
    BigramModel     nats per token that it surprises a bigram model of text that is known already
    count_entropy   nats of the distribution of its token types

Nothing needs to know the language. Similarity is of characters, not of tokens: a tokenizer spells words that it does
not know, and then a text of the task would be like random letters. Everything is counting, so the same text gives the
same numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Features = NDArray[np.int64]

_NGRAM = 4
_FEATURE_BITS = 20
_DISCOUNT = 0.75
"""Of each pair's count, for the pairs that were never seen: the usual one (Ney, Essen, Kneser 1994)."""
_PENDING_PAIRS = 1 << 22
"""Counted at once."""
_MAX_PAIRS = 1 << 24
"""Kept of a text of any size: the most frequent. Some 700 MB while they are counted."""


def count_entropy(tokens: Tokens) -> float:
    """Nats of the distribution of a document's token types."""
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class TaskSimilarity:
    """Cosine to what a target's documents have in common.

    An n-gram that most documents of the domain have tells little: weights are scikit-learn's smooth inverse document
    frequencies, and counts count by their logarithm. Features are hashed: two that fall together blur little.
    """

    def __init__(self) -> None:
        self._num_documents = 0
        self._with_feature = np.zeros(1 << _FEATURE_BITS, dtype=np.int64)
        self._centroid = np.zeros(1 << _FEATURE_BITS)

    def add_domain(self, text: str) -> None:
        """A document that may be chosen; all of them come before the target's."""
        self._with_feature[count_ngrams(text)[0]] += 1
        self._num_documents += 1

    def add_target(self, text: str) -> None:
        """A document of the task."""
        features, weights = self._weigh(text)
        self._centroid[features] += weights

    def score(self, text: str) -> float:
        """From 0; comparable among documents of one target."""
        features, weights = self._weigh(text)
        return float(weights @ self._centroid[features])

    def _weigh(self, text: str) -> tuple[Features, NDArray[np.float64]]:
        features, counts = count_ngrams(text)
        rarity = np.log((1 + self._num_documents) / (1 + self._with_feature[features])) + 1
        weights = (1 + np.log(counts)) * rarity
        return features, weights / max(np.linalg.norm(weights), 1.0)


def count_ngrams(text: str) -> tuple[Features, Features]:
    """The hashes of a text's n-grams, and how often each is there; case and layout make no difference."""
    plain = f" {' '.join(text.lower().split())} "
    letters = np.frombuffer(plain.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    hashes = np.zeros(max(0, len(letters) - _NGRAM + 1), dtype=np.uint64)
    for place in range(_NGRAM):
        hashes = (hashes + letters[place : place + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    features, counts = np.unique((hashes >> np.uint64(64 - _FEATURE_BITS)).astype(np.int64), return_counts=True)
    return features, counts


class BigramModel:
    """A language model of text that is known already: pairs of tokens, with absolute discounting."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._singles = np.zeros(vocab_size, dtype=np.int64)
        self._firsts = np.zeros(vocab_size, dtype=np.int64)
        """How often each token has another one behind it."""
        self._followers = np.zeros(vocab_size, dtype=np.int64)
        """How many different ones."""
        self._pairs = np.empty(0, dtype=np.int64)
        self._pair_counts = np.empty(0, dtype=np.int64)
        self._pending: list[Tokens] = []
        self._num_pending = 0

    def add(self, tokens: Tokens) -> None:
        """Learn from a document."""
        self._singles += np.bincount(tokens, minlength=self._vocab_size)
        self._pending.append(self._pair(tokens))
        self._num_pending += len(tokens)
        if self._num_pending >= _PENDING_PAIRS:
            self._merge()

    def surprise(self, tokens: Tokens) -> float:
        """Mean nats per token: the logarithm of the perplexity."""
        if self._pending:
            self._merge()
        alone = (self._singles[tokens] + 1) / (self._singles.sum() + self._vocab_size)
        first, then = tokens[:-1], alone[1:]
        pairs = self._pair(tokens)
        places = np.minimum(np.searchsorted(self._pairs, pairs), max(0, len(self._pairs) - 1))
        found = self._pair_counts[places] * (self._pairs[places] == pairs) if len(self._pairs) else np.zeros(len(pairs))
        total = np.maximum(self._firsts[first], 1)
        unseen = np.where(self._firsts[first] > 0, _DISCOUNT * self._followers[first] / total, 1.0)
        paired = np.maximum(found - _DISCOUNT, 0) / total + unseen * then
        return float(-(np.log(alone[0]) + np.log(paired).sum()) / len(tokens))

    def _pair(self, tokens: Tokens) -> Tokens:
        return tokens[:-1] * self._vocab_size + tokens[1:]

    def _merge(self) -> None:
        """Count what is pending among what is counted."""
        keys = np.concatenate([self._pairs, *self._pending])
        counts = np.concatenate([self._pair_counts, np.ones(len(keys) - len(self._pairs), dtype=np.int64)])
        self._pairs, places = np.unique(keys, return_inverse=True)
        self._pair_counts = np.bincount(places, weights=counts, minlength=len(self._pairs)).astype(np.int64)
        while len(self._pairs) > _MAX_PAIRS:
            is_kept = self._pair_counts > self._pair_counts.min()
            self._pairs, self._pair_counts = self._pairs[is_kept], self._pair_counts[is_kept]
        first = self._pairs // self._vocab_size
        self._firsts = np.bincount(first, weights=self._pair_counts, minlength=self._vocab_size).astype(np.int64)
        self._followers = np.bincount(first, minlength=self._vocab_size)
        self._pending, self._num_pending = [], 0
