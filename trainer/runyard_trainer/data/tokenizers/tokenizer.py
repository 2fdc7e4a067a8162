"""The tokenizer of a run: trained on its text, or read from a folder in storage.

One end-of-document token, the tokenizer's eos, ends every document and fills what is padded.
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
"""What belongs to a tokenizer in a model folder. No code among it."""


@dataclass(frozen=True)
class DocumentTokenizer:
    """Turns documents into token ids that end with the end-of-document token."""

    folder: Path
    """Its files, as AutoTokenizer opens them; and nothing else."""
    backend: Tokenizer
    vocab_size: int
    """One more than the largest token id."""
    eos_token_id: int
    """Ends a document: eos, or sep where there is none, as BERT's tokenizers have it."""
    pad_token_id: int
    """Fills what is padded: pad, or else the end of a document."""
    has_types: bool = False
    """Whether a user who calls it gets token_type_ids, which tell the texts of a pair apart."""
    cls_token_id: int | None = None
    """Begins a text for an encoder."""
    sep_token_id: int | None = None
    """Ends one."""
    mask_token_id: int | None = None
    """Stands for a token that is to be found."""
    special_token_ids: frozenset[int] = frozenset()
    """Every token that is no text."""
    base: DocumentTokenizer | None = None
    """The model's own, where this is that one with more tokens (`vocabulary`)."""
    pieces: tuple[tuple[int, ...], ...] = ()
    """Of each of those, in order of id, the model's own tokens that it joins."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text and the end-of-document token; no other special tokens."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[*encoding.ids, self.eos_token_id] for encoding in encodings]

    def base_length(self, token_ids: Iterable[int]) -> int:
        """Tokens that the model's own tokenizer makes of the same text: no fewer."""
        first_new = self.vocab_size - len(self.pieces)
        return sum(1 if id_ < first_new else len(self.pieces[id_ - first_new]) for id_ in token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self.backend.decode(list(token_ids), skip_special_tokens=True)
        return text

    def encode_inputs(self, inputs: Sequence[str | tuple[str, str]], length: int) -> list[Encoding]:
        """Texts, or pairs of them, as the tokenizer lays them out for its model: special tokens and all.

        Of what is longer than `length` tokens the end is cut, of a pair that of the longer text; `overflowing` of the
        encoding has the rest.
        """
        self.backend.enable_truncation(length)
        try:
            return self.encode_whole(inputs)
        finally:
            self.backend.no_truncation()

    def encode_whole(self, inputs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """The same without a limit."""
        return self.backend.encode_batch(list(inputs))

    def type_ids(self, encoding: Encoding) -> list[int]:
        """An encoding's token_type_ids; zeros, as models take them to be, where a user gets none."""
        return encoding.type_ids if self.has_types else [0] * len(encoding.ids)

    def encode_without_special(self, texts: Iterable[str]) -> list[Encoding]:
        """Each text alone, with what is in the text and nothing else."""
        encodings: list[Encoding] = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def encode_windows(self, texts: Sequence[str], length: int) -> list[list[Encoding]]:
        """Each text whole, as inputs of at most `length` tokens, special tokens and all, one behind the other."""
        return [[encoding, *encoding.overflowing] for encoding in self.encode_inputs(texts, length)]


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> DocumentTokenizer:
    """Learn a byte-level BPE and save it: the same texts give the same tokenizer.

    Args:
        texts: read once, as a stream.
        vocab_size: at most so many tokens: little text yields fewer.
        folder: where to save it.
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
        source: the folder, with tokenizer.json.
        folder: where to put its files.
        field: path of the recipe's field that names it, for messages.

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
    """What of a model folder belongs to its tokenizer, by name."""
    return {name: info for name, info in source.children().items() if name in TOKENIZER_FILES}


def open_tokenizer(folder: Path, where: str) -> DocumentTokenizer:
    """Open a folder as a user of the model will; `where` begins the message of what is wrong with it."""
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
    """Counts over texts, with one tokenizer; special tokens are none of the text's."""

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = 0
        self._tokens = 0
        self._bytes = 0

    def add(self, texts: Sequence[str]) -> None:
        """Count these too."""
        self._words += sum(len(text.split()) for text in texts)
        self._tokens += sum(map(len, self._tokenizer.encode_without_special(texts)))
        self._bytes += sum(len(text.encode()) for text in texts)

    def tell(self) -> Fertility | None:
        """Of all of them; None where there are no words."""
        if not self._words or not self._tokens:
            return None
        return Fertility(
            tokens_per_word=round(self._tokens / self._words, 3), bytes_per_token=round(self._bytes / self._tokens, 3)
        )
