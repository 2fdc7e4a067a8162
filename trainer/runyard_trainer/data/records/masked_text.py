"""Documents for the objective masked-lm: text in windows that an encoder reads whole.

    document ─(the model's own tokenizer)─> [CLS] tokens [SEP], [CLS] more tokens [SEP], ...

No window has text of two documents. Beside each token lies the number of its word, or -1 where it is never masked:
special tokens, also those that a text spells out, and unknown tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Encoding

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.records.base import Example, RecordKind, Sample, Shown
from runyard_trainer.data.records.text import parse_text
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

NOT_MASKED = -1
"""The word number of tokens that are never masked."""

_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "word_ids": pa.list_(pa.int32())})


@dataclass
class MaskedTextEncoder:
    """Cuts documents into windows, of which a document's last may be shorter."""

    tokenizer: DocumentTokenizer
    length: int
    schema: pa.Schema = _SCHEMA

    def encode(self, records: Sequence[str]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        return [
            [
                Example(columns, len(text.encode()) if number == 0 else 0)
                for number, window in enumerate(windows)
                if (columns := self._to_columns(window)) is not None
            ]
            for text, windows in zip(records, self.tokenizer.encode_windows(records, self.length), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        return describe_special_tokens(self.tokenizer)

    def _to_columns(self, window: Encoding) -> dict[str, Any] | None:
        word_ids = number_words(window, self.tokenizer.special_token_ids)
        return {"input_ids": window.ids, "word_ids": word_ids} if max(word_ids) != NOT_MASKED else None


def number_words(encoding: Encoding, special: frozenset[int]) -> list[int]:
    """Return the number of each token's word; NOT_MASKED for special tokens, which are no text."""
    return [
        NOT_MASKED if word is None or token in special else word
        for token, word in zip(encoding.ids, encoding.word_ids, strict=True)
    ]


def describe_special_tokens(tokenizer: DocumentTokenizer) -> dict[str, Any]:
    """Return the special tokens as fields of DatasetInfo."""
    return {
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "mask_token_id": tokenizer.mask_token_id,
        "special_token_ids": sorted(tokenizer.special_token_ids),
    }


def check_tokenizer(tokenizer: DocumentTokenizer, recipe: Recipe, *needed: str) -> None:
    """Refuse a tokenizer that lacks one of the special tokens, or words where the recipe wants whole ones.

    Raises:
        UserError: DATA_ERROR.
    """
    field = "model.uri" if recipe.model.scratch is None else "model.scratch.tokenizer"
    for token in needed:
        if getattr(tokenizer, f"{token}_id") is None:
            raise UserError(
                f"{field}: the tokenizer has no {token}, which objective {recipe.objective} needs: name one in "
                "tokenizer_config.json",
                ExitCode.DATA_ERROR,
            )
    if recipe.masking.whole_word and tokenizer.backend.pre_tokenizer is None:
        raise UserError(
            f"masking.wholeWord: the tokenizer ({field}) does not split text into words (tokenizer.json has no "
            "pre_tokenizer): leave masking.wholeWord out",
            ExitCode.DATA_ERROR,
        )


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> MaskedTextEncoder:
    check_tokenizer(tokenizer, recipe, "mask_token")
    return MaskedTextEncoder(tokenizer, recipe.training.sequence_length)


@dataclass(frozen=True)
class MaskedTexts:
    """The windows of a stream, not yet masked."""

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        return self.examples[index]

    @property
    def filler(self) -> Sample:
        """A text of one token, never masked."""
        return {"input_ids": np.zeros(1, dtype=np.int64), "word_ids": np.full(1, NOT_MASKED, dtype=np.int64)}


def show_words(columns: dict[str, Any]) -> Shown:
    """Show the tokens of which 15 % are masked, others each time."""
    return Shown([(place, place + 1) for place, word in enumerate(columns["word_ids"]) if word != NOT_MASKED])


DEFINITION = (
    "Each document of `text` is tokenized with the tokenizer's special tokens in windows of sequenceLength tokens, "
    "each a sample, padded with an attention mask. 15 % of the tokens are drawn for each sample from its number "
    "(numpy's PCG64 seeded with a blake2b of `0/-1/number`): the same ones each time. The loss is the mean of -ln p "
    "over them, in nats."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_text,
    identity=lambda text: text,
    to_json=lambda text: {"text": text},
    build_encoder=_build_encoder,
    open_samples=lambda dataset, stream, _: MaskedTexts(dataset.examples(stream)),
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
    show=show_words,
)
