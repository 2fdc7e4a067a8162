"""How finely a tokenizer cuts held-out text: what the domain costs in tokens, beside the general kind."""

from __future__ import annotations

from collections.abc import Sequence

from runyard_trainer.contract.reports import Fertility
from runyard_trainer.tokenizer import DocumentTokenizer


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
