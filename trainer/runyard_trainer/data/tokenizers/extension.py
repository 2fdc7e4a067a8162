"""Extend a model's own tokenizer by tokens that each join several of its tokens, for the words of a domain.

    domain text ─(the model's tokenizer)─> words of several tokens
      ─(BPE goes on, with these tokens as its letters)─> merges, the most frequent pair first
      ─> the same tokenizer, with these merges after its own

The model's own merges come first, and a new one joins tokens that they have left apart. So a text is cut as before,
except that some of its tokens are joined: when each new token is replaced by those that it joins
(`DocumentTokenizer.pieces`), the text is cut as the model knows it. That holds for byte-level BPE within words, as in
GPT-2, Llama 3, Qwen and GPT-NeoX; other tokenizers are refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, trainers

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.dataset.dataset import write_out
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, open_tokenizer

LEARNED_BYTES = 256 << 20
"""Bytes of text that are enough to learn from: of more text, only a share of the documents is read."""

_BATCH_CHARACTERS = 1 << 20
"""Characters that are tokenized at once: in memory, a token takes some hundred bytes."""
_CHECKED_CHARACTERS = 1 << 20
_FIRST_SYMBOL = 0x100
_SURROGATES = range(0xD800, 0xE000)
_BETWEEN_WORDS = " "
_MIN_COUNT = 2

log = logging.getLogger(__name__)


@dataclass
class Extension:
    """The merges and tokens that are added to a tokenizer."""

    merges: list[tuple[str, str]] = field(default_factory=list)
    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The model's own tokens that each new token joins, by the new token, in order."""


def extend_tokenizer(
    base: DocumentTokenizer, texts: Iterable[str], num_tokens: int, folder: Path, where: str
) -> DocumentTokenizer:
    """Extend a model's tokenizer and save it; the same texts give the same tokenizer.

    Args:
        base: the model's own tokenizer.
        texts: texts of the domain; read once.
        num_tokens: the largest number of new tokens; little text yields fewer.
        folder: where to save the extended tokenizer.
        where: the model's folder, for messages.

    Raises:
        UserError: DATA_ERROR where tokens cannot be added so that every text keeps what the model knows of it.
    """
    reason = find_obstacle(base)
    if reason is not None:
        raise _refuse(where, reason)
    checked, texts = _keep_some(texts)
    extension = choose_tokens(base, learn_merges(base, texts, 2 * num_tokens), num_tokens)
    write_extended(base, extension, folder)
    extended = open_tokenizer(folder, where)
    _check(base, extended, extension, checked, where)
    log.info("model.extendVocabulary: %d tokens added to the model's %d", len(extension.tokens), base.vocab_size)
    return replace(extended, base=base, pieces=tuple(extension.tokens.values()))


def _refuse(where: str, reason: str) -> UserError:
    return UserError(
        f"model.extendVocabulary: tokens cannot be added to the tokenizer of {where} so that all text keeps what the "
        f"model knows of it: {reason}. Leave model.extendVocabulary away",
        ExitCode.DATA_ERROR,
    )


def find_obstacle(base: DocumentTokenizer) -> str | None:
    """Return why a tokenizer cannot be extended; None where it can."""
    backend: Any = base.backend
    model = backend.model
    if not isinstance(model, models.BPE):
        return f"it is a {type(model).__name__}, and byte-level BPE alone has merges that others can be put behind"
    if "ByteLevel" not in _kinds_of(backend.pre_tokenizer) or "ByteLevel" not in _kinds_of(backend.decoder):
        return "its BPE is not byte-level, and knows no words that tokens end with"
    if not base.backend.get_vocab(with_added_tokens=False).keys() >= set(pre_tokenizers.ByteLevel.alphabet()):
        return "it has no token for some bytes"
    if model.dropout or model.byte_fallback or model.continuing_subword_prefix or model.end_of_word_suffix:
        return "its BPE has dropout, byte fallback, or marks within words"
    if base.vocab_size + _FIRST_SYMBOL + len(_SURROGATES) > 0x110000:
        return "it has more tokens than there are characters"
    return None


def _kinds_of(part: Any) -> set[str]:
    """Return the types of a pre-tokenizer or decoder and of its parts."""
    if part is None:
        return set()
    state = json.loads(part.__getstate__())
    inner = state.get("pretokenizers", state.get("decoders", []))
    return {state["type"], *(each["type"] for each in inner)}


# --------------------------------------------------------------------------------------------------------------- learn


def sample_texts(texts: Iterable[str], num_bytes: int) -> Iterator[str]:
    """Yield all texts, or, where all have more than `LEARNED_BYTES`, a share of them by a hash of each."""
    share = LEARNED_BYTES / max(num_bytes, LEARNED_BYTES)
    for text in texts:
        digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"vocabulary").digest()
        if int.from_bytes(digest, "little") < share * 2**64:
            yield text


def learn_merges(
    base: DocumentTokenizer, texts: Iterable[str], num_merges: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Learn the merges of a BPE whose letters are the model's own tokens; a merge joins two runs of such tokens."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.CharDelimiterSplit(_BETWEEN_WORDS)
    trainer = trainers.BpeTrainer(
        vocab_size=base.vocab_size + num_merges,
        initial_alphabet=list(_to_symbols(np.arange(base.vocab_size))),
        min_frequency=_MIN_COUNT,
        show_progress=False,
    )
    learner.train_from_iterator(_write_words(base, texts), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(_from_symbols(first), _from_symbols(second)) for first, second in merges]


def _write_words(base: DocumentTokenizer, texts: Iterable[str]) -> Iterator[str]:
    for batch in _cut_batches(texts):
        for encoding in base.backend.encode_batch(batch, add_special_tokens=False):
            yield _write_cut_words(encoding)


def _cut_batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut texts into batches of about `_BATCH_CHARACTERS`; a text that is longer than a batch is cut."""
    batch: list[str] = []
    num_characters = 0
    for text in texts:
        for start in range(0, len(text), _BATCH_CHARACTERS):
            batch.append(text[start : start + _BATCH_CHARACTERS])
            num_characters += len(batch[-1])
            if num_characters >= _BATCH_CHARACTERS:
                yield batch
                batch, num_characters = [], 0
    if batch:
        yield batch


def _write_cut_words(encoding: Encoding) -> str:
    """Write the words of several tokens, with one character for each token."""
    ids, words = np.array(encoding.ids, dtype=np.int64), np.array(encoding.word_ids, dtype=np.int64)
    starts = np.flatnonzero(np.diff(words, prepend=-1))
    lengths = np.diff(starts, append=len(ids))
    is_cut = lengths > 1
    symbols = np.frombuffer(_to_symbols(ids[np.repeat(is_cut, lengths)]).encode("utf-32-le"), dtype="<u4")
    starts = np.cumsum(lengths[is_cut]) - lengths[is_cut]
    return np.insert(symbols, starts, ord(_BETWEEN_WORDS)).tobytes().decode("utf-32-le")


def _to_symbols(ids: NDArray[np.int64]) -> str:
    codes = ids + _FIRST_SYMBOL
    codes = np.where(codes < _SURROGATES.start, codes, codes + len(_SURROGATES))
    return codes.astype("<u4").tobytes().decode("utf-32-le")


def _from_symbols(symbols: str) -> tuple[int, ...]:
    codes = map(ord, symbols)
    return tuple(code - _FIRST_SYMBOL - (len(_SURROGATES) if code >= _SURROGATES.stop else 0) for code in codes)


def choose_tokens(
    base: DocumentTokenizer, merges: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], num_tokens: int
) -> Extension:
    """Choose the first `num_tokens` new tokens among the merges.

    A merge that spells one of the model's own tokens is left out, with all that build on it: the model's merges have
    cut the word in another way than into that token, and joining would change how the text after it is cut.
    """
    known = base.backend.get_vocab(with_added_tokens=True)
    spelling = {id_: text for text, id_ in known.items()}
    left_out: set[tuple[int, ...]] = set()
    extension = Extension()
    for first, second in merges:
        if len(extension.tokens) == num_tokens:
            break
        joined = first + second
        parts = tuple("".join(spelling[id_] for id_ in part) for part in (first, second))
        text = "".join(parts)
        if text in known or first in left_out or second in left_out:
            left_out.add(joined)
            continue
        extension.merges.append((parts[0], parts[1]))
        extension.tokens.setdefault(text, joined)
    return extension


# --------------------------------------------------------------------------------------------------------------- write


def write_extended(base: DocumentTokenizer, extension: Extension, folder: Path) -> None:
    """Write the files of the model's own tokenizer, with the new tokens and merges."""
    stale = ("tokenizer.model", "spiece.model")
    for path in base.folder.iterdir():
        if path.name not in stale:
            shutil.copy(path, folder / path.name)
    described = json.loads(Tokenizer.from_file(str(folder / "tokenizer.json")).to_str())
    model = described["model"]
    # an added token that the BPE does not know gets the next number when a file is read, which new tokens have moved
    model["vocab"] |= {token.content: id_ for id_, token in base.backend.get_added_tokens_decoder().items()}
    model["vocab"] |= {text: base.vocab_size + number for number, text in enumerate(extension.tokens)}
    model["merges"] += [list(merge) for merge in extension.merges]
    Tokenizer.from_str(json.dumps(described)).save(str(folder / "tokenizer.json"))
    if (folder / "vocab.json").exists():
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    if (folder / "merges.txt").exists():
        lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"])]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _keep_some(texts: Iterable[str]) -> tuple[list[str], Iterator[str]]:
    """Return the first texts, enough for `_check`, and an iterator over all texts."""
    waiting, kept, num_characters = iter(texts), [], 0
    for text in waiting:
        kept.append(text)
        num_characters += len(text)
        if num_characters >= _CHECKED_CHARACTERS:
            break
    return kept, chain(kept, waiting)


def _check(
    base: DocumentTokenizer, extended: DocumentTokenizer, extension: Extension, texts: Sequence[str], where: str
) -> None:
    """Refuse an extended tokenizer that does not cut text as intended: its class may build it in its own way."""
    vocabulary = extended.backend.get_vocab(with_added_tokens=True)
    wanted = base.backend.get_vocab(with_added_tokens=True)
    wanted |= {text: base.vocab_size + number for number, text in enumerate(extension.tokens)}
    if vocabulary != wanted or base.eos_token_id != extended.eos_token_id:
        raise _refuse(where, "its class gives other numbers to the tokens of the file")
    pieces = tuple(extension.tokens.values())
    for batch in _cut_batches(texts):
        both = zip(extended.encode(batch), base.encode(batch), strict=True)
        if any(write_out(ids, pieces, base.vocab_size) != base_ids for ids, base_ids in both):
            raise _refuse(where, "with more merges, text is cut otherwise than into joined pieces")
