"""Train tokenizers for encoders on the run's text: WordPiece as in BERT, or byte-level BPE as in RoBERTa.

    WordPiece   [CLS] text [SEP]      [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4; upper and lower case
    BPE         <s> text </s>         <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 4

The WordPiece trainer of the tokenizers library numbers pieces in the order of its hash tables: each training gives
another vocabulary. Its BPE trainer gives the same one each time, so here BPE learns WordPiece's pieces, on words that
have a mark at their beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from runyard_trainer.contract.models import TokenizerTraining
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, open_tokenizer

CHARACTER_COVERAGE = 0.99995
"""The share of the text's characters that WordPiece knows; a word with a rarer one is [UNK]."""

_MARK = "\ue000"
"""The mark that begins a word while pieces are learned; the normalizer removes it from texts."""
_CONTINUED = "##"
_SPARE_PIECES = 1 << 14
"""Pieces that are learned beyond those asked for, to replace pieces with characters that are too rare to keep."""


@dataclass(frozen=True)
class _Special:
    """The special tokens of a kind of tokenizer, by purpose."""

    pad: str
    unk: str
    cls: str
    sep: str
    mask: str


_BERT = _Special(pad="[PAD]", unk="[UNK]", cls="[CLS]", sep="[SEP]", mask="[MASK]")
_ROBERTA = _Special(pad="<pad>", unk="<unk>", cls="<s>", sep="</s>", mask="<mask>")


def train_encoder_tokenizer(
    texts: Iterable[str], training: TokenizerTraining, has_types: bool, folder: Path
) -> DocumentTokenizer:
    """Train an encoder's tokenizer and save it; the same texts give the same tokenizer.

    Args:
        texts: what to learn from; read once.
        training: the kind and the largest number of tokens; little text yields fewer.
        has_types: whether the model tells the two texts of a pair apart by token types.
        folder: where to save the tokenizer.
    """
    if training.type == "wordpiece":
        special, backend = _BERT, _train_wordpiece(texts, training.vocab_size)
    else:
        special, backend = _ROBERTA, _train_bpe(texts, training.vocab_size)
    ids = {token: backend.token_to_id(token) for token in (special.cls, special.sep)}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special.cls} $A {special.sep}", pair=_lay_out_pair(special, has_types), special_tokens=[*ids.items()]
    )
    names = {"bos_token": special.cls, "eos_token": special.sep} if special is _ROBERTA else {}
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=backend,
        pad_token=special.pad,
        unk_token=special.unk,
        cls_token=special.cls,
        sep_token=special.sep,
        mask_token=special.mask if special is _BERT else AddedToken(special.mask, lstrip=True, special=True),
        model_input_names=["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"],
        **names,
    )
    fast.save_pretrained(str(folder))
    return open_tokenizer(folder, "the tokenizer trained here")


def _lay_out_pair(special: _Special, has_types: bool) -> str:
    if has_types:
        return f"{special.cls} $A {special.sep} $B:1 {special.sep}:1"
    twice = f"{special.sep} {special.sep}" if special is _ROBERTA else special.sep
    return f"{special.cls} $A {twice} $B {special.sep}"


# ---------------------------------------------------------------------------------------------------------- kinds


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = [_ROBERTA.cls, _ROBERTA.pad, _ROBERTA.sep, _ROBERTA.unk, _ROBERTA.mask]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    counts: Counter[str] = Counter()

    def count_characters() -> Iterator[str]:
        for text in texts:
            normal = normalizer.normalize_str(text)
            counts.update(normal)
            yield normal

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),
            pre_tokenizers.Metaspace(replacement=_MARK, prepend_scheme="always", split=False),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocab_size + _SPARE_PIECES, show_progress=False)
    learner.train_from_iterator(count_characters(), trainer)
    learned = learner.get_vocab()
    vocabulary = build_wordpieces(sorted(learned, key=learned.__getitem__), counts, vocab_size)

    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token=_BERT.unk))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=_CONTINUED)
    return backend


def build_wordpieces(learned: list[str], counts: Counter[str], vocab_size: int) -> list[str]:
    """Build a WordPiece vocabulary: special tokens, frequent characters alone and within a word, then learned pieces.

    Args:
        learned: the pieces in the order in which they were learned; one that begins a word begins with the mark.
        counts: the number of times that each character occurs, white space among them.
        vocab_size: the largest number of pieces.
    """
    alphabet = _choose_alphabet(counts, vocab_size // 3)
    pieces = [_BERT.pad, _BERT.unk, _BERT.cls, _BERT.sep, _BERT.mask]
    pieces += [*alphabet, *(f"{_CONTINUED}{character}" for character in alphabet)]
    known = set(alphabet)
    for token in learned:
        text = token.removeprefix(_MARK)
        if known.issuperset(text) and text:
            pieces.append(text if token.startswith(_MARK) else f"{_CONTINUED}{text}")
    return list(dict.fromkeys(pieces))[:vocab_size]


def _choose_alphabet(counts: Counter[str], limit: int) -> list[str]:
    """Choose the most frequent characters that make up `CHARACTER_COVERAGE`, in order of code point."""
    ranked = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
    covered = accumulate((counts[char] for char in ranked), initial=0)
    wanted = CHARACTER_COVERAGE * sum(counts[char] for char in ranked)
    return sorted(char for char, before in zip(ranked[:limit], covered, strict=False) if before < wanted)
