"""Which documents of the domain are worth training on, where a recipe asks for a part of them (`data.select`).

    documents that may be trained on ─(excerpt)─> scratch file ─(document_scores)─> a score of each kind
      ─(percentile ranks)─> without the noise ─(mean of the ranks)─> the highest (hard), or drawn by rank (soft)

Of a long document four pieces are looked at, spread evenly: all documents are judged by as much text. 4 KB of each wait
on disk until all have been read; in memory are some numbers of each. Which text that is, the settings and a seed
decide, and nothing else: preparing again chooses the same.
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
from runyard_trainer.data.filters.document_scores import BigramModel, TaskSimilarity, Tokens, count_entropy
from runyard_trainer.data.filters.screening import Reason
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_EXCERPT_CHARACTERS = 4096
_NUM_PIECES = 4
_ENCODED_DOCUMENTS = 256
"""That are tokenized at once."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """A number of each kind for each document, in their order; None where the method does not ask for it."""

    similarity: Values | None = None
    """To the target."""
    surprise: Values | None = None
    """Nats per token."""
    entropy: Values | None = None
    """Nats."""


def choose_documents(
    select: Select,
    seed: int,
    documents: Iterable[str],
    target: Iterable[str],
    known: Iterable[str],
    tokenizer: DocumentTokenizer,
    scratch_dir: Path,
) -> list[Reason | None]:
    """Of each document, why it is not trained on, or None.

    Args:
        select: what is asked for.
        seed: of what is drawn.
        documents: what there is to choose from.
        target: text of the task; read where the method asks for it.
        known: text that the model knows already; likewise.
        tokenizer: the run's.
        scratch_dir: where excerpts wait.

    Raises:
        UserError: DATA_ERROR where there is nothing to compare with.
    """
    excerpts = Excerpts(scratch_dir / "excerpts", map(cut_excerpt, documents))
    similarity = surprise = entropy = None
    if select.uses_target:
        similarity = _score_similarity(excerpts, map(cut_excerpt, target))
    if select.uses_reference:
        model = _learn(_encode(map(cut_excerpt, known), tokenizer), tokenizer)
        surprise, entropy = _score_novelty(_encode(excerpts, tokenizer), model)
    excerpts.remove()
    return judge(select, Scores(similarity, surprise, entropy), seed)


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
    """Surprise and entropy of each: it is tokenized once."""
    surprise, entropy = array("d"), array("d")
    for tokens in excerpts:
        surprise.append(model.surprise(tokens))
        entropy.append(count_entropy(tokens))
    return np.array(surprise), np.array(entropy)


def _encode(texts: Iterable[str], tokenizer: DocumentTokenizer) -> Iterator[Tokens]:
    """Each with its end, so that none is without a token."""
    waiting = iter(texts)
    while batch := list(islice(waiting, _ENCODED_DOCUMENTS)):
        for token_ids in tokenizer.encode(batch):
            yield np.array(token_ids, dtype=np.int64)


def _check_text(num_documents: int, field: str) -> None:
    if not num_documents:
        raise UserError(f"{field} has no text to compare data.train with: name some", ExitCode.DATA_ERROR)


# ------------------------------------------------------------------------------------------------------------- verdicts


def judge(select: Select, scores: Scores, seed: int) -> list[Reason | None]:
    """What becomes of each document. Pure.

    Noise is what surprises most; where there is a target, what does so and is not like it.
    """
    ranks = [rank(each) for each in (scores.similarity, scores.surprise, scores.entropy) if each is not None]
    score = np.mean(ranks, axis=0)
    verdicts: list[Reason | None] = ["notSelected"] * len(score)
    kept = np.arange(len(score))
    if scores.surprise is not None:
        strangeness = rank(scores.surprise) - (0 if scores.similarity is None else rank(scores.similarity))
        num_noise = round(select.resolved_noise_clip * len(score))
        by_strangeness = np.argsort(-strangeness, kind="stable")
        for place in by_strangeness[:num_noise].tolist():
            verdicts[place] = "noise"
        kept = np.sort(by_strangeness[num_noise:])
    for place in _pick(select, score[kept], round(select.fraction * len(score)), seed).tolist():
        verdicts[int(kept[place])] = None
    return verdicts


def _pick(select: Select, score: Values, count: int, seed: int) -> NDArray[np.int64]:
    """Places of at least one."""
    keys = score
    if select.sampling == "soft":
        # The largest of log(u) / w are a weighted sample without replacement (Efraimidis and Spirakis 2006).
        drawn = np.random.Generator(np.random.PCG64(seed)).random(len(score))
        keys = np.log1p(-drawn) / rank(score)
    return np.argsort(-keys, kind="stable")[: max(1, count)]


def rank(values: Values) -> Values:
    """The share of all that is no larger than each, above 0 and up to 1; equals have the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places] / max(1, len(values)))


# ------------------------------------------------------------------------------------------------------------- excerpts


def cut_excerpt(text: str) -> str:
    """What is looked at of a document: all of it, or pieces, of which the first begins and the last ends it."""
    if len(text) <= _EXCERPT_CHARACTERS:
        return text
    size = _EXCERPT_CHARACTERS // _NUM_PIECES
    starts = [number * (len(text) - size) // (_NUM_PIECES - 1) for number in range(_NUM_PIECES)]
    return "\n".join(text[start : start + size] for start in starts)


class Excerpts:
    """Texts in a file; to be gone through as often as it takes."""

    def __init__(self, path: Path, texts: Iterable[str]) -> None:
        self._path = path
        self._sizes = array("L")
        with path.open("wb") as file:
            for text in texts:
                self._sizes.append(file.write(text.encode()))

    def __iter__(self) -> Iterator[str]:
        with self._path.open("rb") as file:
            for size in self._sizes:
                yield file.read(size).decode()

    def remove(self) -> None:
        """Free the disk: shards need it next."""
        self._path.unlink()
