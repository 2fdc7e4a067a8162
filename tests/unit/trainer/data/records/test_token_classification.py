"""Words and their tags as examples: which token carries a word's tag."""

from __future__ import annotations

import pytest
from runyard_trainer.contract.data import Columns
from runyard_trainer.data.records.token_classification import (
    NOWHERE,
    TaggedWords,
    TaggedWordsEncoder,
    find_first_pieces,
    parse_tagged_words,
)
from runyard_trainer.data.sources.rows import Row
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.unit.trainer.encoders import document_tokenizer


def build_wordpiece() -> Tokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lo", "##nd", "##on", "is", "old"]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


def build_bytes(trim_offsets: bool) -> Tokenizer:
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ġ", "i"), ("Ġi", "s")]
    vocabulary = alphabet | {"Ġi": 256, "Ġis": 257}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim_offsets)
    return backend


def test_the_first_piece_of_each_word_carries_its_tag() -> None:
    encoder = TaggedWordsEncoder(document_tokenizer(build_wordpiece(), "[CLS] $A [SEP]"), 32)
    [[example]] = encoder.encode([TaggedWords(("London", "is", "old"), ("B-LOC", "O", "O"))])
    assert example.columns["input_ids"] == [2, 4, 5, 6, 7, 8, 3]  # [CLS] lo ##nd ##on is old [SEP]
    assert example.columns["first_pieces"] == [1, 4, 5]
    assert example.columns["tags"] == ["B-LOC", "O", "O"]
    assert not example.is_truncated


def test_words_past_the_sequence_length_have_no_piece() -> None:
    encoder = TaggedWordsEncoder(document_tokenizer(build_wordpiece(), "[CLS] $A [SEP]"), 5)
    [[example]] = encoder.encode([TaggedWords(("London", "is", "old"), ("B-LOC", "O", "O"))])
    assert example.columns["input_ids"] == [2, 4, 5, 6, 3]
    assert example.columns["first_pieces"] == [1, NOWHERE, NOWHERE]
    assert example.is_truncated


def test_a_word_that_the_tokenizer_makes_nothing_of_has_no_piece_and_a_text_of_such_words_no_example() -> None:
    encoder = TaggedWordsEncoder(document_tokenizer(build_wordpiece(), "[CLS] $A [SEP]"), 32)
    some, none = encoder.encode(
        [TaggedWords(("is", "\u200d", "old"), ("O", "B-X", "O")), TaggedWords(("\u200d",), ("O",))]
    )
    assert some[0].columns["first_pieces"] == [1, NOWHERE, 2]
    assert none == []


@pytest.mark.parametrize("trim_offsets", [True, False], ids=["without the space", "with the space"])
def test_byte_level_tokens_belong_to_the_word_whose_bytes_they_are(trim_offsets: bool) -> None:
    words = ["it", "is", "é"]
    encoding = build_bytes(trim_offsets).encode(" ".join(words))
    assert encoding.tokens == ["i", "t", "Ġis", "Ġ", "Ã", "©"]
    assert find_first_pieces(encoding, words) == [0, 2, 4]


def test_the_labels_are_o_and_both_sides_of_each_kind_that_was_seen() -> None:
    encoder = TaggedWordsEncoder(document_tokenizer(build_wordpiece(), "[CLS] $A [SEP]"), 32)
    encoder.encode([TaggedWords(("is",), ("B-PER",))])
    encoder.encode([TaggedWords(("is", "old"), ("B-LOC-2", "I-LOC-2"))])
    assert encoder.describe() == {"labels": ["O", "B-LOC-2", "I-LOC-2", "B-PER", "I-PER"]}


def test_a_record_goes_back_to_the_row_it_came_from() -> None:
    row = {"tokens": ["New", "York", "!"], "tags": ["B-LOC", "I-LOC", "O"]}
    assert parse_tagged_words(Row(row, "a:1", Columns())).to_json() == row
