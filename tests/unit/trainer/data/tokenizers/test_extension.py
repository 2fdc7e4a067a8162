"""Tokenizers with more tokens: what is joined, that all text keeps what the model knows of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import read_resolved, write_out
from runyard_trainer.data.tokenizers.extension import extend_tokenizer, learn_merges, sample_texts
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, open_tokenizer
from runyard_trainer.export.export import upload
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from tests.places import Place

ENGLISH = ["the court said that the claim of the party is good and that it pays for the case in the end"] * 4
DOMAIN = [
    "The estoppel bars the appellant; the appellant's claim of estoppel is estopped.",
    "Appellant and appellee dispute the subrogation clause, and the subrogation\n\n    of appellant.",
    "subrogation estoppel appellee appellant   subrogation 1234 1234 zürich Zürich",
] * 3
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How it tells words apart."""


def train_bpe(pre_tokenizer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level BPE that knows some English; no special tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(ENGLISH, trainer)
    return backend.get_vocab(), [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]


def save_gpt2(folder: Path) -> None:
    vocab, merges = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    GPT2Tokenizer(vocab=vocab | {"<|endoftext|>": len(vocab)}, merges=merges).save_pretrained(folder)


def save_neox(folder: Path) -> None:
    """With its runs of spaces as added tokens behind the vocabulary."""
    vocab, merges = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer = GPTNeoXTokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken("    ", normalized=True), AddedToken("  ", normalized=True)])
    tokenizer.save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    """With special tokens behind the vocabulary, and NFC."""
    split = pre_tokenizers.Split(Regex(LLAMA_3.replace("{1,3}", "")), "isolated")
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    vocab, merges = train_bpe(pre_tokenizers.Sequence(parts))
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)


def save_llama(folder: Path) -> None:
    """With special tokens behind the vocabulary, words that are whole before merges are, and an opening token."""
    parts = [
        pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    vocab, merges = train_bpe(pre_tokenizers.Sequence(parts))
    vocab |= {"Ġdispute": len(vocab)}  # which no merge leads to
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    backend.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    opening = (special[0], backend.token_to_id(special[0]))
    backend.post_processor = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[opening])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[1])
    fast.save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "gpt2": save_gpt2,
    "gpt_neox": save_neox,
    "qwen2": save_qwen,
    "llama 3": save_llama,
}


def open_base(folder: Path, save: Callable[[Path], None]) -> DocumentTokenizer:
    save(folder)
    return open_tokenizer(folder, "s3://m/m")


def extend(base: DocumentTokenizer, num_tokens: int = 40, texts: list[str] = DOMAIN) -> DocumentTokenizer:
    folder = base.folder.with_name(f"extended-{num_tokens}")
    folder.mkdir()
    return extend_tokenizer(base, iter(texts), num_tokens, folder, "s3://m/m")


@pytest.fixture(scope="module", params=KINDS, ids=str)
def extended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DocumentTokenizer:
    return extend(open_base(tmp_path_factory.mktemp("tokenizer") / "base", KINDS[request.param]))


def test_the_domain_takes_fewer_tokens_and_what_the_model_knows_as_many(extended: DocumentTokenizer) -> None:
    base = extended.base
    assert base is not None
    assert len(extended.pieces) == 40
    assert extended.vocab_size == base.vocab_size + 40
    before, after = (sum(map(len, tokenizer.encode(DOMAIN))) for tokenizer in (base, extended))
    assert after < 0.6 * before
    assert extended.encode(ENGLISH) == base.encode(ENGLISH)


def test_every_token_that_the_model_knows_keeps_its_number(extended: DocumentTokenizer) -> None:
    assert extended.base is not None
    vocabulary = extended.backend.get_vocab(with_added_tokens=True)
    known = extended.base.backend.get_vocab(with_added_tokens=True)
    assert vocabulary.items() > known.items()
    assert extended.special_token_ids == extended.base.special_token_ids
    new = sorted(vocabulary.keys() - known.keys(), key=vocabulary.__getitem__)
    spelling = {id_: text for text, id_ in known.items()}
    assert new == ["".join(spelling[id_] for id_ in pieces) for pieces in extended.pieces]


WORDS = st.sampled_from(
    ["estoppel", " estoppel", "Appellant", "subro", "gation", "appell", "ee", " ", "  ", "    ", "\n", "1234", "the",
     " dispute", "ü", "u\u0308", "zürich", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "'s", "😀", "Ġ", "\u00a0"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=st.lists(WORDS | st.text(max_size=6), max_size=12).map("".join))
def test_any_text_written_out_is_what_the_models_own_tokenizer_makes_of_it(
    extended: DocumentTokenizer, text: str
) -> None:
    base = extended.base
    assert base is not None
    (ids,), (base_ids,) = extended.encode([text]), base.encode([text])
    assert write_out(ids, extended.pieces, base.vocab_size) == base_ids
    assert extended.decode(ids) == base.decode(base_ids)


def test_a_saved_one_is_opened_alike_by_transformers_and_written_again_alike(
    extended: DocumentTokenizer, tmp_path: Path
) -> None:
    fast: Any = AutoTokenizer.from_pretrained(extended.folder)
    ids = fast(DOMAIN[0], add_special_tokens=False)["input_ids"]
    assert ids == extended.encode([DOMAIN[0]])[0][:-1]
    assert fast.decode(ids) == DOMAIN[0]
    assert len(fast) == extended.vocab_size
    fast.save_pretrained(tmp_path)
    again: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert again(DOMAIN[0], add_special_tokens=False)["input_ids"] == ids
    assert again.get_vocab() == fast.get_vocab()


def test_files_that_say_the_same_in_another_way_say_the_same_of_new_tokens(tmp_path: Path) -> None:
    """As folders have them that older releases have written."""
    save_gpt2(tmp_path / "base")
    model = json.loads((tmp_path / "base/tokenizer.json").read_text())["model"]
    (tmp_path / "base/vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
    (tmp_path / "base/merges.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "base/tokenizer.model").write_text("of the former tokens alone")
    extended = extend(open_tokenizer(tmp_path / "base", "s3://m/m"))
    assert not (extended.folder / "tokenizer.model").exists()
    built = GPT2Tokenizer(vocab=str(extended.folder / "vocab.json"), merges=str(extended.folder / "merges.txt"))
    assert [built(text)["input_ids"] for text in DOMAIN] == [ids[:-1] for ids in extended.encode(DOMAIN)]


def test_the_same_text_gives_the_same_bytes(tmp_path: Path) -> None:
    base = open_base(tmp_path / "base", save_qwen)
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        extend_tokenizer(base, iter(DOMAIN), 30, tmp_path / name, "s3://m/m")
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert files[0] == files[1]


def test_what_is_joined_first_is_what_occurs_most(tmp_path: Path) -> None:
    base = open_base(tmp_path / "base", save_gpt2)
    extended = extend(base, 10, ["zq zq zq qz qz zz"])
    z, q = base.backend.token_to_id("z"), base.backend.token_to_id("q")
    assert extended.pieces[0] == (z, q)
    assert (q, z) in extended.pieces
    assert (z, z) not in extended.pieces, "it occurs once"


def test_a_token_that_the_model_has_is_not_made_again_of_other_pieces(tmp_path: Path) -> None:
    """abc is a token, but the model's merges cut the text abc into a and bc."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, "bc", "ab", "abc", "<|endoftext|>"]
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    GPT2Tokenizer(vocab=vocab, merges=merges).save_pretrained(tmp_path / "base")
    base = open_tokenizer(tmp_path / "base", "s3://m/m")
    a, bc = vocab["a"], vocab["bc"]
    assert base.encode(["abc"])[0][:-1] == [a, bc]
    assert learn_merges(base, ["abc abc abc"], 1) == [((a,), (bc,))]
    extended = extend(base, 3, ["abc"] * 3)
    assert extended.pieces == ()
    assert extended.encode(["abc abc"]) == base.encode(["abc abc"])


def test_of_much_text_a_share_of_the_documents_is_learned_from() -> None:
    texts = [f"document {number}" for number in range(1000)]
    assert list(sample_texts(texts, 1 << 20)) == texts
    some = list(sample_texts(texts, 1 << 30))
    assert 180 < len(some) < 320
    assert some == list(sample_texts(texts, 1 << 30))


def save(folder: Path, backend: Tokenizer) -> None:
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)


def save_wordpiece(folder: Path) -> None:
    backend = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "</s>": 1, "the": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    save(folder, backend)


def save_unigram(folder: Path) -> None:
    save(folder, Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("the", -1.0)], unk_id=0)))


def save_sentencepiece_bpe(folder: Path) -> None:
    """As Llama 2 has it."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "th"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("t", "h")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    save(folder, backend)


def save_without_bytes(folder: Path) -> None:
    backend = Tokenizer(models.BPE(vocab={"</s>": 0, "t": 1, "h": 2, "th": 3}, merges=[("t", "h")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    save(folder, backend)


def save_with_dropout(folder: Path) -> None:
    vocab, merges = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend = Tokenizer(models.BPE(vocab=vocab | {"</s>": len(vocab)}, merges=merges, dropout=0.1))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    save(folder, backend)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "WordPiece": (save_wordpiece, "it is a WordPiece, and byte-level BPE alone"),
    "Unigram": (save_unigram, "it is a Unigram"),
    "SentencePiece's BPE": (save_sentencepiece_bpe, "its BPE is not byte-level"),
    "bytes that are missing": (save_without_bytes, "no token for some bytes"),
    "dropout": (save_with_dropout, "its BPE has dropout"),
}


@pytest.mark.parametrize(("save_base", "want"), REFUSED.values(), ids=REFUSED.keys())
def test_a_kind_that_cannot_be_extended_exactly_is_refused(
    tmp_path: Path, save_base: Callable[[Path], None], want: str
) -> None:
    with pytest.raises(UserError) as refused:
        extend(open_base(tmp_path / "base", save_base))
    assert refused.value.code is ExitCode.DATA_ERROR
    assert str(refused.value).startswith("model.extendVocabulary: tokens cannot be added to the tokenizer of s3://m/m")
    assert want in str(refused.value)


def build_place(folder: Path) -> Place:
    made = Place.in_folder(folder)
    made.scratch.mkdir()
    made.put_model()
    made.put_text()
    return made


def recipe_of(place: Place, tokens: int | None) -> Recipe:
    added = {} if tokens is None else {"extendVocabulary": {"tokens": tokens}}
    general = [{"uri": f"{place.base}/other/"}]
    return place.recipe(model={"uri": f"{place.base}/model"} | added, evaluation={"general": general})


def test_what_prepare_leaves_and_tells_of_more_tokens(tmp_path: Path) -> None:
    place = build_place(tmp_path)
    report = place.prepare(recipe_of(place, 16))
    resolved, info = read_resolved(place.base / "out"), place.dataset().info
    assert resolved.resolved["newTokens"] == "16"
    assert resolved.resolved["tokenizer"] == info.tokenizer_digest
    assert info.vocab_size == info.base_vocab_size + 16
    assert info.base_streams.keys() == {"validation", "general"}
    for name, base_stream in info.base_streams.items():
        stream = info.streams[name]
        assert (base_stream.documents, base_stream.bytes) == (stream.documents, stream.bytes)
        assert base_stream.tokens > stream.tokens
    assert report.data is not None
    told = report.data.domain_fertility
    assert told is not None
    assert told.base_tokens_per_word is not None
    assert told.tokens_per_word < told.base_tokens_per_word
    shown = json.loads((place.base / "out" / "preview.json").get().data)["streams"]["validation"]["fertility"]
    assert shown == told.model_dump(by_alias=True)


def test_a_tokenizer_that_has_changed_since_is_not_exported(tmp_path: Path) -> None:
    place = build_place(tmp_path)
    place.prepare(recipe_of(place, 16))
    dataset = place.dataset()
    (tmp_path / "model").mkdir()
    upload({"model": tmp_path / "model"}, dataset, place.base / "out")
    assert (place.base / "out/model/tokenizer.json").get().data
    (dataset.location / "tokenizer" / "tokenizer_config.json").put(b"{}")
    with pytest.raises(UserError, match="is damaged or was changed"):
        upload({"model": tmp_path / "model"}, dataset, place.base / "out")


def test_other_tokens_are_prepared_anew_and_the_same_ones_once(tmp_path: Path) -> None:
    place = build_place(tmp_path)
    datasets = []
    for tokens in (None, 8, 9, 8):
        place.prepare(recipe_of(place, tokens))
        resolved = read_resolved(place.base / "out")
        datasets.append((resolved.dataset, resolved.sha256))
    assert len({*datasets}) == 3
    assert datasets[1] == datasets[3]


def test_ids_that_were_made_elsewhere_are_told_by_their_place(tmp_path: Path) -> None:
    place = build_place(tmp_path)
    rows = [json.dumps({"input_ids": [number, 2, 3]}) for number in range(20)]
    (place.base / "text" / "a.jsonl").put("\n".join(rows).encode())
    with pytest.raises(UserError, match=r"a\.jsonl:\d+: .*or leave model\.extendVocabulary away"):
        place.prepare(recipe_of(place, 10))


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a model that has none": (
        {"model": {"scratch": {"config": {}, "tokenizer": {"train": {}}}, "extendVocabulary": {"tokens": 5}}},
        "say model.scratch.tokenizer.train.vocabSize",
    ),
    "an encoder": ({"objective": "masked-lm"}, "is for objectives causal-lm and sft"),
    "classes": ({"objective": "classification"}, "is for objectives causal-lm and sft"),
    "replay of what it knows": (
        {"data": {"train": [{"uri": "s3://c/c"}], "replay": {"fraction": 0.1, "source": "self"}}},
        "give data.replay.sources",
    ),
}


@pytest.mark.parametrize(("fields", "want"), UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_go_with_more_tokens_is_refused_with_the_field(fields: dict[str, Any], want: str) -> None:
    base: dict[str, Any] = {
        "model": {"uri": "s3://m/m", "extendVocabulary": {"tokens": 5}},
        "data": {"train": [{"uri": "s3://c/c"}]},
        "output": {"uri": "s3://o/o"},
    }
    assert Recipe.model_validate(base).model.extend_vocabulary is not None
    with pytest.raises(ValueError, match=want):
        Recipe.model_validate(base | fields)
