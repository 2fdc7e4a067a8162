"""Choosing domain data: on a made corpus, what each method takes of noise and of what is like the task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runyard_trainer.contract.data import Select
from runyard_trainer.contract.exits import UserError
from runyard_trainer.data.filters import document_scores
from runyard_trainer.data.filters.document_scores import BigramModel, compute_entropy
from runyard_trainer.data.filters.selection import Scores, choose_documents, cut_excerpt, decide, rank
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, train_tokenizer
from scipy.stats import chisquare

from tests.unit.trainer.data.filters.made_corpus import corpus, documents, keep_excerpts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    texts = [*corpus()["known"], *corpus()["other"][:100]]
    return train_tokenizer(texts, 1000, tmp_path_factory.mktemp("tokenizer"))


def choose(tokenizer: DocumentTokenizer, folder: Path, seed: int = 0, **select: Any) -> list[str | None]:
    settings = {"fraction": 0.1, "target": [{"uri": "s3://t/t"}], "reference": [{"uri": "s3://k/k"}]} | select
    unused = {"similarity": "reference", "novelty-diversity": "target"}.get(settings["method"])
    settings.pop(unused or "", None)
    texts = [text for _, text in documents()]
    made = Select.model_validate(settings)
    with keep_excerpts(folder, texts) as excerpts:
        return list(choose_documents(made, seed, excerpts, corpus()["target"], corpus()["known"], tokenizer))


def taken(verdicts: list[str | None]) -> Counter[str]:
    return Counter(kind for (kind, _), verdict in zip(documents(), verdicts, strict=True) if verdict is None)


# -------------------------------------------------------------------------------------------------------------- methods


def test_perplexity_alone_would_take_all_noise(tokenizer: DocumentTokenizer) -> None:
    model = BigramModel(tokenizer.vocab_size)
    for token_ids in tokenizer.encode(corpus()["known"]):
        model.add(np.array(token_ids))
    encoded = tokenizer.encode([text for _, text in documents()])
    surprise = np.array([model.surprise(np.array(token_ids)) for token_ids in encoded])
    first = np.argsort(-surprise)[:100]
    assert Counter(documents()[place][0] for place in first)["noise"] == 60


@pytest.mark.parametrize("sampling", ["hard", "soft"])
@pytest.mark.parametrize("method", ["similarity", "novelty-diversity", "combined"])
def test_a_tenth_is_taken_and_next_to_no_noise(
    tokenizer: DocumentTokenizer, tmp_path: Path, method: str, sampling: str
) -> None:
    found = taken(choose(tokenizer, tmp_path, method=method, sampling=sampling))
    assert found.total() == 100
    assert found["noise"] <= (0 if sampling == "hard" else 2)


def test_noise_is_what_the_clip_leaves_out(tokenizer: DocumentTokenizer, tmp_path: Path) -> None:
    verdicts = choose(tokenizer, tmp_path, method="novelty-diversity")
    reasons = Counter(
        (kind, verdict) for (kind, _), verdict in zip(documents(), verdicts, strict=True) if verdict == "noise"
    )
    assert reasons[("noise", "noise")] == 60
    assert reasons.total() == 100
    without = taken(choose(tokenizer, tmp_path, method="novelty-diversity", noiseClip=0))
    assert without["noise"] > 20, "entropy alone is no guard: what is random is varied"


@pytest.mark.parametrize("method", ["similarity", "combined"])
def test_what_is_like_the_task_is_found(tokenizer: DocumentTokenizer, tmp_path: Path, method: str) -> None:
    found = taken(choose(tokenizer, tmp_path, method=method))
    assert found["task"] == 40 if method == "similarity" else found["task"] > 20


def test_softly_more_of_the_task_is_taken_than_its_share_and_less_than_all(
    tokenizer: DocumentTokenizer, tmp_path: Path
) -> None:
    drawn = [taken(choose(tokenizer, tmp_path, seed, method="similarity", sampling="soft")) for seed in range(10)]
    assert 4 < sum(found["task"] for found in drawn) / 10 < 12, "some 8 of 40: twice the share of the middle rank"


def test_text_of_the_task_is_no_noise_however_new_it_is() -> None:
    similarity = np.array([0.1] * 18 + [0.9, 0.0])
    surprise = np.array([3.0] * 18 + [8.0, 8.0])
    select = Select.model_validate(
        {
            "method": "combined",
            "fraction": 0.05,
            "noiseClip": 0.05,
            "target": [{"uri": "s3://t/t"}],
            "reference": [{"uri": "s3://k/k"}],
        }
    )
    verdicts = decide(select, Scores(similarity, surprise, np.ones(20)), seed=0)
    assert verdicts == ["notSelected"] * 18 + [None, "noise"]


# ------------------------------------------------------------------------------------------------------------- sampling


def test_the_same_is_chosen_again_and_another_seed_draws_others(tokenizer: DocumentTokenizer, tmp_path: Path) -> None:
    soft = {"method": "similarity", "sampling": "soft"}
    first = choose(tokenizer, tmp_path, **soft)
    assert choose(tokenizer, tmp_path, **soft) == first
    assert choose(tokenizer, tmp_path, seed=1, **soft) != first
    assert choose(tokenizer, tmp_path, seed=1, method="similarity") == choose(tokenizer, tmp_path, method="similarity")


def test_soft_draws_by_rank() -> None:
    select = Select.model_validate(
        {"method": "similarity", "fraction": 0.1, "target": [{"uri": "s3://t/t"}], "sampling": "soft"}
    )
    drawn: Counter[int] = Counter()
    for seed in range(4000):
        verdicts = decide(select, Scores(similarity=np.arange(10.0)), seed)
        drawn.update(place for place, verdict in enumerate(verdicts) if verdict is None)
    assert drawn.total() == 4000
    want = [4000 * (place + 1) / 55 for place in range(10)]
    assert chisquare([drawn[place] for place in range(10)], want).pvalue > 0.001


@pytest.mark.parametrize(("count", "fraction", "want"), [(0, 0.5, 0), (1, 0.001, 1), (7, 0.5, 4), (1000, 0.333, 333)])
def test_as_many_are_taken_as_is_asked_and_one_at_least(count: int, fraction: float, want: int) -> None:
    for sampling in ("hard", "soft"):
        select = Select.model_validate(
            {"method": "similarity", "fraction": fraction, "target": [{"uri": "s3://t/t"}], "sampling": sampling}
        )
        assert decide(select, Scores(similarity=np.arange(float(count))), seed=0).count(None) == want


def test_ranks_are_shares_and_equals_share_theirs() -> None:
    assert rank(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [0.625, 0.25, 0.625, 1.0]


# --------------------------------------------------------------------------------------------------------------- scores


def test_a_bigram_model_gives_probabilities() -> None:
    model = BigramModel(5)
    for tokens in ([0, 1, 2, 0, 1, 3], [1, 2, 1, 2], [3]):
        model.add(np.array(tokens))
    for first in range(5):
        then = [2 * model.surprise(np.array([first, token])) - model.surprise(np.array([first])) for token in range(5)]
        assert sum(np.exp(-np.array(then))) == pytest.approx(1)
    assert model.surprise(np.array([0, 1])) < model.surprise(np.array([0, 4]))


def test_of_a_text_of_any_size_the_frequent_pairs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_scores, "_PENDING_PAIRS", 10)
    monkeypatch.setattr(document_scores, "_MAX_PAIRS", 20)
    model = BigramModel(100)
    rng = np.random.Generator(np.random.PCG64(0))
    for _ in range(50):
        model.add(np.array([*[1, 2, 3] * 4, *rng.integers(4, 100, 12)]))
    assert len(model._pairs) <= 20
    assert model.surprise(np.array([1, 2, 3])) < 3 < model.surprise(np.array([1, 50, 3]))
    assert sum(
        np.exp(-2 * model.surprise(np.array([1, then])) + model.surprise(np.array([1]))) for then in range(100)
    ) == (pytest.approx(1))


def test_entropy_is_that_of_the_types() -> None:
    assert compute_entropy(np.array([3, 3, 3])) == 0
    assert compute_entropy(np.array([1, 2, 3, 4])) == pytest.approx(np.log(4))


def test_a_long_document_is_judged_by_four_pieces_of_it() -> None:
    def numbers(count: int) -> Iterator[str]:
        return (f"{i:04d}" for i in range(count))

    short = "".join(numbers(1024))
    assert cut_excerpt(short) == short
    excerpt = cut_excerpt("".join(numbers(10_000)))
    pieces = excerpt.split("\n")
    assert [len(piece) for piece in pieces] == [1024] * 4
    assert pieces[0].startswith("0000")
    assert pieces[-1].endswith("9999")


@pytest.mark.parametrize(
    ("empty", "field"), [("target", "data.select.target"), ("known", r"data.select.reference \(or data.replay")]
)
def test_nothing_to_compare_with_is_told(tokenizer: DocumentTokenizer, tmp_path: Path, empty: str, field: str) -> None:
    sources = {"target": [{"uri": "s3://t/t"}], "reference": [{"uri": "s3://k/k"}]}
    select = Select.model_validate({"method": "combined", "fraction": 0.1, **sources})
    texts = {"target": corpus()["target"], "known": corpus()["known"]} | {empty: []}
    with (
        keep_excerpts(tmp_path, ["a", "b"]) as excerpts,
        pytest.raises(UserError, match=f"{field}.* has no text to compare data.train with"),
    ):
        choose_documents(select, 0, excerpts, texts["target"], texts["known"], tokenizer)
