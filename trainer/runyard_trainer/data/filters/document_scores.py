"""Score a document: how similar it is to a task's text, how new it is to a model, how varied it is.

    TaskSimilarity   cosine between the document's TF-IDF of character 4-grams and the mean of the target's
    BigramModel      nats per token by which the document surprises a bigram model of text that is known already
    compute_entropy  nats of the distribution of the document's token types

No score depends on the language. Similarity compares characters, not tokens: a tokenizer cuts words that it does not
know into letters, and then a text of the task would look like random letters. All scores are made of counts, so the
same text gets the same scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Features = NDArray[np.int64]

_NGRAM = 4
_FEATURE_BITS = 20
_DISCOUNT = 0.75
"""Taken off each pair's count and given to pairs that were never seen: the usual one (Ney, Essen, Kneser 1994)."""
_PENDING_PAIRS = 1 << 22
"""Pairs of tokens that are counted at once."""
_MAX_PAIRS = 1 << 24
"""Pairs that are kept of a text of any size, the most frequent ones: some 700 MB while they are counted."""


def compute_entropy(tokens: Tokens) -> float:
    """Compute the entropy, in nats, of the distribution of a document's token types."""
    counts = np.unique(tokens, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class TaskSimilarity:
    """The similarity of documents to a target: the cosine to the mean of the target's documents.

    N-grams are weighted by scikit-learn's smooth inverse document frequency over the domain and by the logarithm of
    their count. They are hashed to 2^20 features; the few that share a feature change a score little.
    """

    def __init__(self) -> None:
        self._num_documents = 0
        self._with_feature = np.zeros(1 << _FEATURE_BITS, dtype=np.int64)
        self._centroid = np.zeros(1 << _FEATURE_BITS)

    def add_domain(self, text: str) -> None:
        """Count a document of the domain; all of them come before the target's."""
        self._with_feature[count_ngrams(text)[0]] += 1
        self._num_documents += 1

    def add_target(self, text: str) -> None:
        """Add a document of the target."""
        features, weights = self._weigh(text)
        self._centroid[features] += weights

    def score(self, text: str) -> float:
        """Return a document's similarity, 0 or more; comparable among documents of one target only."""
        features, weights = self._weigh(text)
        return float(weights @ self._centroid[features])

    def _weigh(self, text: str) -> tuple[Features, NDArray[np.float64]]:
        features, counts = count_ngrams(text)
        rarity = np.log((1 + self._num_documents) / (1 + self._with_feature[features])) + 1
        weights = (1 + np.log(counts)) * rarity
        return features, weights / max(np.linalg.norm(weights), 1.0)


def count_ngrams(text: str) -> tuple[Features, Features]:
    """Return the hashes of a text's n-grams and the count of each; case and white space make no difference."""
    plain = f" {' '.join(text.lower().split())} "
    letters = np.frombuffer(plain.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    hashes = np.zeros(max(0, len(letters) - _NGRAM + 1), dtype=np.uint64)
    for place in range(_NGRAM):
        hashes = (hashes + letters[place : place + len(hashes)]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    features, counts = np.unique((hashes >> np.uint64(64 - _FEATURE_BITS)).astype(np.int64), return_counts=True)
    return features, counts


class BigramModel:
    """A bigram language model with absolute discounting, of text that is known already."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._singles = np.zeros(vocab_size, dtype=np.int64)
        self._firsts = np.zeros(vocab_size, dtype=np.int64)
        """By token: how often another token follows it."""
        self._followers = np.zeros(vocab_size, dtype=np.int64)
        """By token: how many different tokens follow it."""
        self._pairs = np.empty(0, dtype=np.int64)
        self._pair_counts = np.empty(0, dtype=np.int64)
        self._pending: list[Tokens] = []
        self._num_pending = 0

    def add(self, tokens: Tokens) -> None:
        """Count a document's tokens and pairs."""
        self._singles += np.bincount(tokens, minlength=self._vocab_size)
        self._pending.append(self._pair(tokens))
        self._num_pending += len(tokens)
        if self._num_pending >= _PENDING_PAIRS:
            self._merge()

    def surprise(self, tokens: Tokens) -> float:
        """Return the mean nats per token of a document: the logarithm of its perplexity."""
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
        """Merge the pending pairs into the counts."""
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
