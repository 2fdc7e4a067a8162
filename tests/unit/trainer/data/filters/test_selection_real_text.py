"""Choosing among 940 of Python's own docstrings and 60 documents of random characters: what is taken of noise."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import Document, build_general
from runyard_trainer.contract.data import Select
from runyard_trainer.data.filters.document_scores import BigramModel
from runyard_trainer.data.filters.selection import choose_documents
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, train_tokenizer

from tests.unit.trainer.data.filters.made_corpus import keep_excerpts, write_noise

SOURCE = [{"uri": "s3://c/x"}]
TASK = ("asyncio", "concurrent", "multiprocessing", "threading")
"""The modules whose docstrings are the task: half of them are its texts, the others are in the domain."""


@dataclass(frozen=True)
class Corpus:
    """The thousand in some order, each with its kind, and what they are compared with."""

    documents: list[tuple[str, str]]
    target: list[str]
    known: list[str]
    tokenizer: DocumentTokenizer

    def take(self, method: str, sampling: str, folder: Path) -> Counter[str]:
        """How many of each kind are chosen."""
        settings: dict[str, Any] = {"method": method, "fraction": 0.1, "sampling": sampling}
        settings |= {"target": SOURCE} if method != "novelty-diversity" else {}
        settings |= {"reference": SOURCE} if method != "similarity" else {}
        select, texts = Select.model_validate(settings), [text for _, text in self.documents]
        with keep_excerpts(folder, texts) as excerpts:
            verdicts = choose_documents(select, 0, excerpts, self.target, self.known, self.tokenizer)
        assert list(folder.iterdir()) == [], "what waited on disk is gone"
        return Counter(kind for (kind, _), verdict in zip(self.documents, verdicts, strict=True) if verdict is None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    def is_task(document: Document) -> bool:
        return document.origin.startswith(TASK)

    docstrings = [
        document
        for document in build_general(is_held_out=False, max_bytes=10**7)
        if not document.origin.startswith("topic ")
    ]
    of_task = [document.text for document in docstrings if is_task(document)]
    wanted, target = of_task[::2], of_task[1::2]
    others = [document.text for document in docstrings if not is_task(document)][: 940 - len(wanted)]
    rng = random.Random(0)
    noise = [write_noise(rng, i) for i in range(60)]
    kinds = {"task": wanted, "other": others, "noise": noise}
    documents = [(kind, text) for kind, texts in kinds.items() for text in texts]
    assert len(documents) == 1000
    rng.shuffle(documents)
    known = [document.text for document in build_general(is_held_out=True, max_bytes=10**7)]
    return Corpus(documents, target, known, train_tokenizer(known, 2000, tmp_path_factory.mktemp("tokenizer")))


def test_perplexity_alone_would_take_every_document_of_noise(corpus: Corpus) -> None:
    model = BigramModel(corpus.tokenizer.vocab_size)
    for token_ids in corpus.tokenizer.encode(corpus.known):
        model.add(np.array(token_ids))
    encoded = corpus.tokenizer.encode([text for _, text in corpus.documents])
    surprise = np.array([model.surprise(np.array(token_ids)) for token_ids in encoded])
    taken = Counter(corpus.documents[place][0] for place in np.argsort(-surprise)[:100])
    assert taken["noise"] == 60


@pytest.mark.parametrize("sampling", ["hard", "soft"])
@pytest.mark.parametrize("method", ["similarity", "novelty-diversity", "combined"])
def test_a_tenth_is_taken_and_next_to_no_noise(corpus: Corpus, tmp_path: Path, method: str, sampling: str) -> None:
    taken = corpus.take(method, sampling, tmp_path)
    assert taken.total() == 100
    assert taken["noise"] <= (0 if sampling == "hard" else 2)


@pytest.mark.parametrize(("method", "times"), [("similarity", 3), ("combined", 1.2)])
def test_text_like_the_task_is_taken_more_often_than_by_chance(
    corpus: Corpus, tmp_path: Path, method: str, times: float
) -> None:
    taken = corpus.take(method, "hard", tmp_path)
    share = Counter(kind for kind, _ in corpus.documents)["task"] / 1000
    assert taken["task"] / 100 > times * share
