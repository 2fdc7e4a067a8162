"""Choose the documents of the domain to train on, where a recipe asks for a part of them (`data.select`).

    documents that may be trained on ─(excerpt)─> scratch file ─(document_scores)─> scores of each document
      ─(percentile ranks)─> without the noise ─(mean of the ranks)─> the highest (hard), or drawn by rank (soft)

Of a long document four pieces are scored, spread evenly, so that all documents are compared by as much text. An excerpt
of at most 4,096 characters of each document waits on disk until all have been read; memory holds a few numbers of each.
The choice depends on the texts, the settings and the seed alone: preparing the same files again chooses the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runyard_trainer.contract.data import Select
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.filters.document_scores import BigramModel, TaskSimilarity, Tokens, compute_entropy
from runyard_trainer.data.filters.fates import LeftOutReason
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_EXCERPT_CHARACTERS = 4096
_NUM_PIECES = 4
_ENCODED_DOCUMENTS = 256
"""Documents that are tokenized at once."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """The scores of all documents, in their order; None for a score that the method does not use."""

    similarity: Values | None = None
    """Cosine to the target's texts."""
    surprise: Values | None = None
    """Nats per token, by a bigram model of text that is known already."""
    entropy: Values | None = None
    """Nats, of the distribution of the document's token types."""


def choose_documents(
    select: Select,
    seed: int,
    excerpts: Excerpts,
    target: Iterable[str],
    known: Iterable[str],
    tokenizer: DocumentTokenizer,
) -> list[LeftOutReason | None]:
    """Decide for each document why it is not trained on; None where it is.

    Args:
        select: the recipe's `data.select`.
        seed: the seed of `sampling: soft`.
        excerpts: the documents to choose from.
        target: texts of the task; read only where the method compares with them.
        known: texts that the model knows already; read only where the method compares with them.
        tokenizer: the run's.

    Raises:
        UserError: DATA_ERROR where there is no text to compare with.
    """
    similarity = surprise = entropy = None
    if select.uses_target:
        similarity = _score_similarity(excerpts, map(cut_excerpt, target))
    if select.uses_reference:
        model = _learn(_encode(map(cut_excerpt, known), tokenizer), tokenizer)
        surprise, entropy = _score_novelty(_encode(excerpts, tokenizer), model)
    return decide(select, Scores(similarity, surprise, entropy), seed)


def _score_similarity(excerpts: Excerpts, target: Iterable[str]) -> Values:
    scorer = TaskSimilarity()
    for text in excerpts:
        scorer.add_domain(text)
    num_target = 0
    for text in target:
        scorer.add_target(text)
        num_target += 1
    _check_text(num_target, "data.select.target")
    return np.fromiter(map(scorer.score, excerpts), np.float64)


def _learn(known: Iterable[Tokens], tokenizer: DocumentTokenizer) -> BigramModel:
    model = BigramModel(tokenizer.vocab_size)
    num_known = 0
    for tokens in known:
        model.add(tokens)
        num_known += 1
    _check_text(num_known, "data.select.reference (or data.replay.sources in its place)")
    return model


def _score_novelty(excerpts: Iterable[Tokens], model: BigramModel) -> tuple[Values, Values]:
    """Compute surprise and entropy of each document, which is tokenized once for both."""
    surprise, entropy = array("d"), array("d")
    for tokens in excerpts:
        surprise.append(model.surprise(tokens))
        entropy.append(compute_entropy(tokens))
    return np.array(surprise), np.array(entropy)


def _encode(texts: Iterable[str], tokenizer: DocumentTokenizer) -> Iterator[Tokens]:
    """Tokenize each text, with the end-of-document token, so that even an empty text has a token."""
    waiting = iter(texts)
    while batch := list(islice(waiting, _ENCODED_DOCUMENTS)):
        for token_ids in tokenizer.encode(batch):
            yield np.array(token_ids, dtype=np.int64)


def _check_text(num_documents: int, field: str) -> None:
    if not num_documents:
        raise UserError(f"{field} has no text to compare data.train with: name some", ExitCode.DATA_ERROR)


# ------------------------------------------------------------------------------------------------------------- decision


def decide(select: Select, scores: Scores, seed: int) -> list[LeftOutReason | None]:
    """Decide for each document, from the scores of all, why it is not trained on; None where it is.

    Noise is what surprises most or, where there is a target, what surprises most for its likeness to the target.
    """
    ranks = [rank(each) for each in (scores.similarity, scores.surprise, scores.entropy) if each is not None]
    score = np.mean(ranks, axis=0)
    reasons: list[LeftOutReason | None] = ["notSelected"] * len(score)
    kept = np.arange(len(score))
    if scores.surprise is not None:
        strangeness = rank(scores.surprise) - (0 if scores.similarity is None else rank(scores.similarity))
        num_noise = round(select.resolved_noise_clip * len(score))
        by_strangeness = np.argsort(-strangeness, kind="stable")
        for place in by_strangeness[:num_noise].tolist():
            reasons[place] = "noise"
        kept = np.sort(by_strangeness[num_noise:])
    for place in _pick(select, score[kept], round(select.fraction * len(score)), seed).tolist():
        reasons[int(kept[place])] = None
    return reasons


def _pick(select: Select, score: Values, count: int, seed: int) -> NDArray[np.int64]:
    """Pick documents by their scores, at least one; returns their indices."""
    keys = score
    if select.sampling == "soft":
        # The largest of log(u) / w are a weighted sample without replacement (Efraimidis and Spirakis 2006).
        drawn = np.random.Generator(np.random.PCG64(seed)).random(len(score))
        keys = np.log1p(-drawn) / rank(score)
    return np.argsort(-keys, kind="stable")[: max(1, count)]


def rank(values: Values) -> Values:
    """Return each value's percentile rank, above 0 and up to 1; equal values get the mean of their ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places] / max(1, len(values)))


# ------------------------------------------------------------------------------------------------------------- excerpts


def cut_excerpt(text: str) -> str:
    """Return a document whole, or four pieces of it: its first and last 1,024 characters and two from between."""
    if len(text) <= _EXCERPT_CHARACTERS:
        return text
    size = _EXCERPT_CHARACTERS // _NUM_PIECES
    starts = [number * (len(text) - size) // (_NUM_PIECES - 1) for number in range(_NUM_PIECES)]
    return "\n".join(text[start : start + size] for start in starts)


class Excerpts:
    """Excerpts of documents in a scratch file: written once, read as often as it takes, removed at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sizes = array("L")
        self._file = path.open("wb")

    def __enter__(self) -> Excerpts:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()

    def add(self, document: str) -> None:
        """Append the excerpt of a document."""
        self._sizes.append(self._file.write(cut_excerpt(document).encode()))

    def __iter__(self) -> Iterator[str]:
        self._file.flush()
        with self._path.open("rb") as file:
            for size in self._sizes:
                yield file.read(size).decode()
