"""Words and their tags: which token carries a word's tag, and what is said of lines that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

from tests.unit.trainer.bad_records import explain, prepare_lines
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


# --------------------------------------------------------------------------------------------------------- wrong lines


GOOD = {"tokens": ["the", "red", "bird"], "tags": ["O", "B-ANIMAL", "I-ANIMAL"]}

BAD: dict[str, tuple[Any, str]] = {
    "no tokens": (
        {"words": ["the"], "tags": ["O"]},
        "no field 'tokens', found tags, words: name the field that holds it in columns.tokens",
    ),
    "no tags": (
        {"tokens": ["the"], "ner": ["O"]},
        "no field 'tags', found ner, tokens: name the field that holds it in columns.tags",
    ),
    "a text for tokens": (
        {"tokens": "the red bird", "tags": ["O"]},
        "field 'tokens' is a string, not a list of strings",
    ),
    "a number among tokens": (
        {"tokens": ["the", 7], "tags": ["O", "O"]},
        "field 'tokens[1]' is a number, not a string",
    ),
    "numbers for tags": ({"tokens": ["the"], "tags": [0]}, "field 'tags[0]' is a number, not a string"),
    "a tag too few": (
        {"tokens": ["the", "bird"], "tags": ["O"]},
        "field 'tokens' has 2 words and field 'tags' has 1 tags: give each word a tag",
    ),
    "an empty word": (
        {"tokens": ["the", " "], "tags": ["O", "O"]},
        "field 'tokens[1]' is ' ': leave out words without a character",
    ),
    "a tag of another scheme": (
        {"tokens": ["the", "bird"], "tags": ["O", "S-ANIMAL"]},
        "field 'tags[1]' is 'S-ANIMAL': write O, or B- and the kind of entity at its first word and I- at its others",
    ),
    "a tag without a kind": (
        {"tokens": ["bird"], "tags": ["B-"]},
        "field 'tags[0]' is 'B-': write O, or B- and the kind of entity at its first word and I- at its others",
    ),
    "an entity that begins with I at the start": (
        {"tokens": ["bird"], "tags": ["I-ANIMAL"]},
        "field 'tags[0]' is 'I-ANIMAL' after 'O': an entity begins with 'B-ANIMAL'",
    ),
    "an entity that goes on as another kind": (
        {"tokens": ["red", "house"], "tags": ["B-ANIMAL", "I-PLACE"]},
        "field 'tags[1]' is 'I-PLACE' after 'B-ANIMAL': an entity begins with 'B-PLACE'",
    ),
    "half of a surrogate pair": (
        {"tokens": ["a", "\ud83d"], "tags": ["O", "O"]},
        "field 'tokens[1]' has half of a surrogate pair at character 0",
    ),
}


@pytest.mark.parametrize(("row", "want"), BAD.values(), ids=BAD.keys())
def test_a_wrong_line_is_told_by_its_place_and_what_to_do(tmp_path: Path, row: Any, want: str) -> None:
    assert explain(tmp_path, "token-classification", GOOD, row) == f"data.jsonl:2: {want}"


def test_a_mapped_column_is_called_by_its_own_name(tmp_path: Path) -> None:
    columns = {"tokens": "words", "tags": "ner"}
    message = explain(tmp_path, "token-classification", {"words": ["a"], "ner": ["PER"]}, columns=columns)
    assert message.startswith("data.jsonl:1: field 'ner[0]' is 'PER': write O, or B- and the kind of entity")


def test_texts_without_any_entity_are_refused(tmp_path: Path) -> None:
    message = explain(tmp_path, "token-classification", {"tokens": ["the"], "tags": ["O"]})
    assert message == "data.train: every tag is O: give texts with entities too"


def test_lines_that_are_right_are_prepared(tmp_path: Path) -> None:
    rows = [GOOD, {"tokens": [], "tags": []}, {"tokens": ["red", "red"], "tags": ["B-C", "B-C"]}, GOOD]
    prepare_lines(tmp_path, "token-classification", *rows)
    assert (tmp_path / "output" / "resolved.json").exists()
