"""Tokenizers for tests of encoders."""

from __future__ import annotations

from pathlib import Path

from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer
from tokenizers import Tokenizer, processors


def document_tokenizer(backend: Tokenizer, single: str | None = None, pair: str | None = None) -> DocumentTokenizer:
    """Around a backend with [PAD], [UNK], [CLS] and [SEP] as its first tokens, where it has templates."""
    if single is not None:
        special = [("[CLS]", 2), ("[SEP]", 3)]
        backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return DocumentTokenizer(Path("nowhere"), backend, backend.get_vocab_size(), 3, 0, has_types=True)
