"""Masking: how much of what, from which seed; windows of text; and models that can be trained so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.models import TokenizerTraining
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.data.records.masked_text import NOT_MASKED, MaskedTextEncoder
from runyard_trainer.data.tokenizers.encoders import train_encoder_tokenizer
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer
from runyard_trainer.objectives.masked_lm import Masker, collate, probe
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

SPECIAL = [0, 1, 2, 3, 4]
MASK = 4
VOCABULARY = 1000


def build_masker(whole_word: bool = False) -> Masker:
    return Masker(MASK, np.setdiff1d(np.arange(VOCABULARY), SPECIAL), whole_word)


def build_sample(num_words: int, tokens_in_a_word: int = 1) -> Sample:
    """[CLS] words [SEP]; all tokens differ from special ones."""
    words = np.repeat(np.arange(num_words), tokens_in_a_word)
    ids = 5 + words % (VOCABULARY - 5)
    return {
        "input_ids": np.concatenate([[2], ids, [3]]).astype(np.int64),
        "word_ids": np.concatenate([[NOT_MASKED], words, [NOT_MASKED]]).astype(np.int64),
    }


def assert_is_share(count: int, total: int, share: float) -> None:
    """Within five standard deviations of a binomial."""
    assert abs(count - share * total) < 5 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("whole_word", [False, True])
def test_15_percent_are_chosen_of_which_80_are_masked_10_replaced_and_10_kept(whole_word: bool) -> None:
    sample = build_sample(200_000)
    masked = build_masker(whole_word).mask(sample, seed=-7)
    is_chosen = masked["labels"] != IGNORED
    num_chosen = int(is_chosen.sum())
    assert_is_share(num_chosen, 200_000, 0.15)
    assert (masked["labels"][is_chosen] == sample["input_ids"][is_chosen]).all()
    assert (masked["input_ids"][~is_chosen] == sample["input_ids"][~is_chosen]).all()
    seen, was = masked["input_ids"][is_chosen], masked["labels"][is_chosen]
    assert_is_share(int((seen == MASK).sum()), num_chosen, 0.8)
    # one replacement in all tokens is the token itself
    assert_is_share(int((seen == was).sum()), num_chosen, 0.1 + 0.1 / (VOCABULARY - len(SPECIAL)))


def test_special_tokens_are_never_chosen_and_never_put_in_place_of_text() -> None:
    masked = build_masker().mask(build_sample(100_000), seed=1)
    assert masked["labels"][[0, -1]].tolist() == [IGNORED, IGNORED]
    assert masked["input_ids"][[0, -1]].tolist() == [2, 3]
    replaced = masked["input_ids"][1:-1]
    assert set(replaced[replaced != MASK].tolist()).isdisjoint(SPECIAL)
    assert "word_ids" not in masked


def test_a_word_is_chosen_with_all_of_its_tokens_or_not_at_all() -> None:
    sample = build_sample(30_000, tokens_in_a_word=3)
    is_chosen = (build_masker(whole_word=True).mask(sample, seed=2)["labels"] != IGNORED)[1:-1].reshape(-1, 3)
    assert (is_chosen.any(axis=1) == is_chosen.all(axis=1)).all()
    assert_is_share(int(is_chosen.all(axis=1).sum()), 30_000, 0.15)
    alone = (build_masker().mask(sample, seed=2)["labels"] != IGNORED)[1:-1].reshape(-1, 3)
    assert (alone.any(axis=1) != alone.all(axis=1)).any()


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("num_words", [1, 2, 7])
def test_every_text_has_something_to_find_however_short_it_is(num_words: int, whole_word: bool) -> None:
    sample, masker = build_sample(num_words, tokens_in_a_word=2), build_masker(whole_word)
    chosen = [(masker.mask(sample, seed)["labels"] != IGNORED) for seed in range(200)]
    assert all(is_chosen.any() for is_chosen in chosen)
    assert not any(is_chosen[[0, -1]].any() for is_chosen in chosen), "special tokens are none of it"
    assert np.array(chosen)[:, 1:-1].any(axis=0).all(), "each token is chosen by some draw"
    if whole_word:
        assert all((is_chosen[1:-1:2] == is_chosen[2:-1:2]).all() for is_chosen in chosen)


def test_a_filler_has_nothing_to_find() -> None:
    token = {"input_ids": np.zeros(1, dtype=np.int64), "word_ids": np.full(1, NOT_MASKED, dtype=np.int64)}
    assert build_masker().mask(token, seed=3)["labels"].tolist() == [IGNORED]


def test_what_is_masked_follows_from_the_seed_alone_whatever_lies_beside_it() -> None:
    masker, samples = build_masker(), [build_sample(50), build_sample(9), build_sample(70)]
    together = collate(masker, 0, samples, [11, -22, 33], 0)
    alone = collate(masker, 0, samples[1:2], [-22], 0)
    again = collate(masker, 0, samples[1:2], [-23], 0)
    for name in ("input_ids", "labels"):
        assert torch.equal(together.inputs[name][1, :11], alone.inputs[name][0, :11])
    assert not torch.equal(alone.inputs["labels"], again.inputs["labels"])


def test_a_micro_batch_counts_masked_tokens_and_is_padded_with_what_weighs_nothing() -> None:
    batch = collate(build_masker(), 0, [build_sample(40), build_sample(9)], [5, 6], 0)
    labels = batch.inputs["labels"]
    assert labels.shape == (2, 48)
    assert batch.counts == (int((labels != IGNORED).sum()),)
    assert batch.tokens == 42 + 11
    assert batch.inputs["attention_mask"].sum(dim=1).tolist() == [42, 11]
    assert (labels[1, 11:] == IGNORED).all()
    assert (batch.inputs["input_ids"][1, 11:] == 0).all()


# -------------------------------------------------------------------------------------------------------------- windows


def train_tokenizer(folder: Path, kind: str, has_types: bool = True) -> DocumentTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    texts = ["the cat sees the dog", "a bird finds the old house", "The tree, and then Zoë's cat!"] * 20
    training = TokenizerTraining.model_validate({"type": kind, "vocabSize": 300})
    return train_encoder_tokenizer(texts, training, has_types, folder)


def test_a_document_is_cut_into_windows_with_their_own_special_tokens(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tmp_path / "t", "wordpiece")
    text = "the cat sees the dog and a bird finds the old house"
    [examples, short, nothing] = MaskedTextEncoder(tokenizer, 8).encode([text, "a cat", "[SEP] \u4e2d"])
    windows = [example.columns["input_ids"] for example in examples]
    assert [len(window) for window in windows] == [8, 8]
    assert {(window[0], window[-1]) for window in windows} == {(2, 3)}
    assert tokenizer.backend.decode([token for window in windows for token in window[1:-1]]) == text
    assert [example.columns["word_ids"] for example in examples] == [
        [NOT_MASKED, *range(6), NOT_MASKED],
        [NOT_MASKED, *range(6, 12), NOT_MASKED],
    ]
    assert [example.text_bytes for example in examples] == [len(text), 0]
    assert [example.columns["word_ids"] for example in short] == [[NOT_MASKED, 0, 1, NOT_MASKED]]
    assert nothing == []


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_pieces_of_a_word_have_its_number(tmp_path: Path, kind: str) -> None:
    tokenizer = train_tokenizer(tmp_path / "t", kind)
    [[example]] = MaskedTextEncoder(tokenizer, 64).encode(["house housecatt the"])
    words = example.columns["word_ids"][1:-1]
    assert words == sorted(words)
    assert set(words) == {0, 1, 2}
    assert words.count(1) > 1


# ----------------------------------------------------------------------------------------------------------- tokenizers


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_same_texts_give_the_same_tokenizer(tmp_path: Path, kind: str) -> None:
    train_tokenizer(tmp_path / "first", kind)
    train_tokenizer(tmp_path / "second", kind)
    assert read_files(tmp_path / "first") == read_files(tmp_path / "second")


def test_wordpiece_knows_frequent_characters_alone_and_within_words_and_keeps_case(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tmp_path / "t", "wordpiece")
    vocabulary = tokenizer.backend.get_vocab()
    assert [vocabulary[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == SPECIAL
    assert {"T", "##e", "the", "ë", "##ë"} <= vocabulary.keys()
    assert not [piece for piece in vocabulary if "\ue000" in piece]
    assert sorted(vocabulary.values()) == list(range(tokenizer.vocab_size))
    assert tokenizer.backend.encode("The tree, and then Zoë's cat!").tokens.count("[UNK]") == 0
    assert tokenizer.backend.encode("cat \u4e2d").tokens == ["[CLS]", "cat", "[UNK]", "[SEP]"]


@pytest.mark.parametrize(
    ("kind", "has_types", "want"),
    [
        ("wordpiece", True, (["[CLS]", "cat", "[SEP]", "dog", "[SEP]"], [0, 0, 0, 1, 1])),
        ("wordpiece", False, (["[CLS]", "cat", "[SEP]", "dog", "[SEP]"], None)),
        ("bpe", True, (["<s>", "cat", "</s>", "dog", "</s>"], [0, 0, 0, 1, 1])),
        ("bpe", False, (["<s>", "cat", "</s>", "</s>", "dog", "</s>"], None)),
    ],
)
def test_it_opens_in_transformers_and_lays_out_pairs_as_its_model_reads_them(
    tmp_path: Path, kind: str, has_types: bool, want: tuple[list[str], list[int] | None]
) -> None:
    trained = train_tokenizer(tmp_path / "t", kind, has_types)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "t")
    encoded = tokenizer("cat", "dog")
    joined = tokenizer.decode(encoded["input_ids"]).replace(" ", "")
    assert joined == "".join(want[0])
    assert encoded.get("token_type_ids") is None if want[1] is None else True
    assert tokenizer.mask_token_id == trained.mask_token_id
    assert tokenizer.pad_token_id == trained.pad_token_id == (0 if kind == "wordpiece" else 1)
    assert {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id} <= trained.special_token_ids


# ------------------------------------------------------------------------------------------------- models and defaults

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def build_model(model_type: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=128, **SIZES, pad_token_id=0, **fields)
    return AutoModelForMaskedLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def test_a_model_that_reads_padding_is_refused() -> None:
    with pytest.raises(UserError, match="model_type fnet"):
        probe(build_model("fnet"))


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_dropout_is_found_by_the_probe_which_leaves_the_model_as_it_was(model_type: str) -> None:
    model = build_model(model_type).eval()
    assert probe(model).stochastic is True
    assert not model.training
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    assert probe(build_model(model_type, **without)).stochastic is False


def build_recipe(**fields: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "objective": "masked-lm",
            "model": {"uri": "s3://b/model"},
            "data": {"train": [{"uri": "s3://b/text/"}]},
            "output": {"uri": "s3://b/out"},
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("training", "want"),
    [
        ({"sequenceLength": 512, "batchSequences": 256}, 1e-4),
        ({"sequenceLength": 512, "batchSequences": 2047}, 1e-4),
        ({"sequenceLength": 512, "batchSequences": 2048}, 5e-4),
        ({"sequenceLength": 512, "batchSequences": 2048, "learningRate": 3e-5}, 3e-5),
        ({}, 1e-4),
    ],
)
def test_the_learning_rate_depends_on_the_size_of_a_batch(training: dict[str, Any], want: float) -> None:
    assert build_recipe(training={"steps": 1, **training}).learning_rate == want


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        (
            {"objective": "causal-lm", "masking": {"wholeWord": True}},
            "masking.wholeWord is for objectives masked-lm and masked-lm-nsp: leave it out",
        ),
        (
            {
                "objective": "causal-lm",
                "model": {"scratch": {"config": {}, "tokenizer": {"train": {"type": "wordpiece"}}}},
            },
            "model.scratch.tokenizer.train.type wordpiece is for objectives masked-lm and masked-lm-nsp: write bpe",
        ),
    ],
)
def test_what_is_for_masked_objectives_is_refused_elsewhere(fields: dict[str, Any], want: str) -> None:
    with pytest.raises(ValueError, match="masked-lm-nsp") as caught:
        build_recipe(**fields)
    assert want in str(caught.value)
