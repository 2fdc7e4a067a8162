"""Documents of sentences, and the pairs that they become."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.contract.models import TokenizerTraining
from runyard_trainer.data.records.masked_text import NOT_MASKED
from runyard_trainer.data.records.sentence_pairs import IS_NEXT, SentencePairs, fit_pair
from runyard_trainer.data.records.sentences import SentencesEncoder, parse_sentences, split_sentences
from runyard_trainer.data.sources.rows import Row
from runyard_trainer.data.tokenizers.encoders import train_encoder_tokenizer
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

CLS, SEP = 2, 3


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It is so, e.g. here. And there.", ["It is so, e.g. here.", "And there."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Pi is 3.14 or so... Nearly.", ["Pi is 3.14 or so...", "Nearly."]),
        ("A heading\n\nA sentence over\ntwo lines.", ["A heading", "A sentence over two lines."]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("  \n ", []),
        ("One.\n", ["One."]),
    ],
)
def test_text_is_split_into_sentences(text: str, want: list[str]) -> None:
    assert list(split_sentences(text)) == want


def test_sentences_are_taken_as_they_are_given() -> None:
    row = Row({"sents": ["One. Still one.", " ", " Two "]}, "a:1", Columns(sentences="sents"))
    assert parse_sentences(row) == ("One. Still one.", "Two")


@pytest.mark.parametrize(
    ("lengths", "want"),
    [((3, 4), (3, 4)), ((9, 4), (6, 4)), ((4, 9), (4, 6)), ((9, 9), (5, 5)), ((1, 20), (1, 9))],
)
def test_the_longer_text_of_a_pair_is_cut(lengths: tuple[int, int], want: tuple[int, int]) -> None:
    assert fit_pair(*lengths, 10) == want


# ---------------------------------------------------------------------------------------------------------------- pairs


class Rows:
    """Examples, without storage."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        arrays = {name: np.array(value) for name, value in self._rows[index].items() if isinstance(value, list)}
        return self._rows[index] | arrays


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    """Every sentence `d<document>s<number>` of the documents below is pieces of letters and digits."""
    training = TokenizerTraining(type="wordpiece", vocab_size=300)
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_encoder_tokenizer(["abc d0123456789 s0123456789"] * 9, training, True, folder)


def build_documents(count: int) -> list[tuple[str, ...]]:
    chance = random.Random(4)
    return [tuple(f"d{i} s{j}" for j in range(chance.randint(1, 9))) for i in range(count)]


def build_pairs(tokenizer: DocumentTokenizer, documents: Sequence[tuple[str, ...]], room: int = 40) -> SentencePairs:
    examples = SentencesEncoder(tokenizer, room).encode(documents)
    rows = [example.columns for each in examples for example in each]
    return SentencePairs(Rows(rows), CLS, SEP, room)  # type: ignore[arg-type]  # rows of a test


def read_texts(tokenizer: DocumentTokenizer, sample: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The sentences of both texts."""
    types = sample["token_type_ids"]
    texts = []
    for kind in (0, 1):
        words = tokenizer.backend.decode(sample["input_ids"][types == kind].tolist()).split()
        texts.append([" ".join(words[i : i + 2]) for i in range(0, len(words), 2)])
    return texts[0], texts[1]


def test_half_of_the_second_texts_are_from_another_document_and_the_others_go_on(
    tokenizer: DocumentTokenizer,
) -> None:
    documents = build_documents(2000)
    pairs = build_pairs(tokenizer, documents, room=200)
    where = {sentence: (i, j) for i, document in enumerate(documents) for j, sentence in enumerate(document)}
    num_next = 0
    for index in range(len(pairs)):
        sample = pairs[index]
        first, second = ([where[sentence] for sentence in text] for text in read_texts(tokenizer, sample))
        for text in (first, second):
            document, start = text[0]
            assert text == [(document, start + j) for j in range(len(text))]
        assert second[0][1] > 0
        if int(sample["next_sentence_label"]) == IS_NEXT:
            num_next += 1
            assert second[0] == (first[-1][0], first[-1][1] + 1)
        else:
            assert second[0][0] != first[0][0]
    assert abs(num_next - len(pairs) / 2) < 5 * math.sqrt(len(pairs) / 4)
    assert len(pairs) > 2000


def test_a_pair_fits_and_is_laid_out_as_bert_reads_it(tokenizer: DocumentTokenizer) -> None:
    pairs = build_pairs(tokenizer, [*build_documents(50), ("d" * 60, "s" * 60), ("d1 " * 30, "d2")], room=20)
    for index in range(len(pairs)):
        sample = pairs[index]
        ids, types, words = (sample[name].tolist() for name in ("input_ids", "token_type_ids", "word_ids"))
        second = types.index(1)
        assert len(ids) == len(types) == len(words) <= 23
        assert (ids[0], ids[second - 1], ids[-1]) == (CLS, SEP, SEP)
        assert types == [0] * second + [1] * (len(ids) - second)
        assert [i for i, word in enumerate(words) if word == NOT_MASKED] == [
            i for i, token in enumerate(ids) if token in tokenizer.special_token_ids
        ]
        known = [word for word in words if word != NOT_MASKED]
        assert known == sorted(known)
        assert not set(words[:second]) & set(words[second:]) - {NOT_MASKED}


def test_the_same_documents_give_the_same_pairs(tokenizer: DocumentTokenizer) -> None:
    first, second = (build_pairs(tokenizer, build_documents(50)) for _ in range(2))
    for index in range(len(first)):
        assert all(np.array_equal(first[index][name], second[index][name]) for name in first[index])


def test_a_document_of_one_sentence_has_no_pair(tokenizer: DocumentTokenizer) -> None:
    assert SentencesEncoder(tokenizer, 40).encode([("d1 s1",), ()]) == [[], []]
