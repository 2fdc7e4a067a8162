"""Train a run's tokenizer on its text, or read it from a folder in storage; and encode texts with it.

The tokenizer's eos token ends every document and, where there is no pad token, pads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import Fertility
from runyard_trainer.storage.base import Location, ObjectInfo

END_OF_TEXT = "<|endoftext|>"
"""The one special token of a tokenizer trained here: eos, bos and pad. Its id is 0."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
"""The files of a model folder that belong to its tokenizer; none of them is code."""


@dataclass(frozen=True)
class DocumentTokenizer:
    """A tokenizer whose documents end with the end-of-document token."""

    folder: Path
    """The folder with the tokenizer's files, as AutoTokenizer opens them, and nothing else."""
    backend: Tokenizer
    vocab_size: int
    """The largest token id plus 1."""
    eos_token_id: int
    """The token that ends a document: eos, or sep where there is no eos, as in BERT's tokenizers."""
    pad_token_id: int
    """The token that pads: pad, or eos where there is no pad."""
    has_types: bool = False
    """Whether a call of it returns token_type_ids, which tell the texts of a pair apart."""
    cls_token_id: int | None = None
    """The token that begins a text for an encoder."""
    sep_token_id: int | None = None
    """The token that ends a text for an encoder."""
    mask_token_id: int | None = None
    """The token that stands for a masked one."""
    special_token_ids: frozenset[int] = frozenset()
    """Every token that is no text, such as eos and mask."""
    base: DocumentTokenizer | None = None
    """The model's own tokenizer, where this one is an extension of it (`extension`)."""
    pieces: tuple[tuple[int, ...], ...] = ()
    """For each added token, in order of id, the model's own tokens that it joins."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text as its token ids and the end-of-document token, without other special tokens."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[*encoding.ids, self.eos_token_id] for encoding in encodings]

    def base_length(self, token_ids: Iterable[int]) -> int:
        """Count the tokens that the model's own tokenizer cuts the same text into: as many or more."""
        first_new = self.vocab_size - len(self.pieces)
        return sum(1 if id_ < first_new else len(self.pieces[id_ - first_new]) for id_ in token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Decode token ids to text, without special tokens."""
        text: str = self.backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def encode_inputs(self, inputs: Sequence[str | tuple[str, str]], length: int) -> list[Encoding]:
        """Encode texts, or pairs of texts, with the special tokens that the model expects, in at most `length` tokens.

        A longer text is cut at its end, of a pair the longer text; the rest is in `overflowing` of the encoding.
        """
        self.backend.enable_truncation(length)
        try:
            return self.encode_whole(inputs)
        finally:
            self.backend.no_truncation()

    def encode_whole(self, inputs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Encode texts, or pairs of texts, with the special tokens that the model expects, of any length."""
        return self.backend.encode_batch(list(inputs))

    def type_ids(self, encoding: Encoding) -> list[int]:
        """Return an encoding's token_type_ids; zeros, which models assume, where the tokenizer returns none."""
        return encoding.type_ids if self.has_types else [0] * len(encoding.ids)

    def encode_without_special(self, texts: Iterable[str]) -> list[Encoding]:
        """Encode each text without special tokens."""
        encodings: list[Encoding] = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def encode_windows(self, texts: Sequence[str], length: int) -> list[list[Encoding]]:
        """Encode each text as consecutive windows of at most `length` tokens, special tokens among them."""
        return [[encoding, *encoding.overflowing] for encoding in self.encode_inputs(texts, length)]


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> DocumentTokenizer:
    """Train a byte-level BPE and save it; the same texts give the same tokenizer.

    Args:
        texts: what to learn from; read once.
        vocab_size: the largest number of tokens; little text yields fewer.
        folder: where to save the tokenizer.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        tokenizer_object=backend, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    fast.save_pretrained(str(folder))
    return open_tokenizer(folder, "the tokenizer trained here")


def load_tokenizer(source: Location, folder: Path, field: str) -> DocumentTokenizer:
    """Read the tokenizer of a folder in storage; no code of it is run.

    Args:
        source: the folder in storage, with tokenizer.json.
        folder: where to download its files.
        field: the path of the recipe's field that names the folder, for messages.

    Raises:
        UserError: DATA_ERROR where it is missing, cannot be opened or has no eos token.
    """
    names = list_tokenizer_files(source)
    if "tokenizer.json" not in names:
        raise UserError(
            f"{field}: {source} has no tokenizer.json: save a fast tokenizer there with save_pretrained",
            ExitCode.DATA_ERROR,
        )
    for name in names:
        (source / name).download_file(folder / name)
    return open_tokenizer(folder, f"{field}: {source}")


def list_tokenizer_files(source: Location) -> dict[str, ObjectInfo]:
    """List the files of a model folder that belong to its tokenizer, by name."""
    return {name: info for name, info in source.children().items() if name in TOKENIZER_FILES}


def open_tokenizer(folder: Path, where: str) -> DocumentTokenizer:
    """Open a folder as a user of the model will; `where` begins the message if that fails."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
    except Exception as error:  # the libraries raise no narrower one for a broken file
        raise UserError(f"{where}: the tokenizer cannot be opened: {error}", ExitCode.DATA_ERROR) from error
    eos_token_id = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    if eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer has no eos_token, which ends every document: name one in tokenizer_config.json",
            ExitCode.DATA_ERROR,
        )
    pad_token_id = eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    vocab_size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
    has_types = "token_type_ids" in tokenizer.model_input_names
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}
    return DocumentTokenizer(
        folder,
        backend,
        vocab_size,
        eos_token_id,
        pad_token_id,
        has_types,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.mask_token_id,
        frozenset(special),
    )


class FertilityCounter:
    """Counts of words, tokens and bytes over texts, with one tokenizer; special tokens do not count."""

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = 0
        self._tokens = 0
        self._bytes = 0

    def add(self, texts: Sequence[str]) -> None:
        """Add texts to the counts."""
        self._words += sum(len(text.split()) for text in texts)
        self._tokens += sum(map(len, self._tokenizer.encode_without_special(texts)))
        self._bytes += sum(len(text.encode()) for text in texts)

    def summarize(self) -> Fertility | None:
        """Compute the fertility over all texts; None where they have no words."""
        if not self._words or not self._tokens:
            return None
        return Fertility(
            tokens_per_word=round(self._tokens / self._words, 3), bytes_per_token=round(self._bytes / self._tokens, 3)
        )
