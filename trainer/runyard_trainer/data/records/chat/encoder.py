"""Dialogues as tokens, and which of them the model is to write itself.

    Dialogue ─(layout)─> text ─(tokenizer)─> token ids, and spans that are trained on

A span begins where the model begins to write when it is asked: behind the prompt with the template's opening of an
assistant's turn. It ends with the first special token behind the answer, which is what stops the model. So the tokens
before a span are those that the model will be given, and those within it are those that it is to give.

What is no conversation begins with the tokenizer's opening token, if it has one.

Where answers are compared (objective preference), a span goes on to the end of the text, and a template is not made up:
to prefer one answer teaches no layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.records.chat.layout import ChatLayout, LaidOut
from runyard_trainer.data.records.chat.messages import Dialogue
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer


@dataclass(frozen=True)
class Tokens:
    """A dialogue as token ids."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """Start and end of each run of trained tokens."""


class ChatEncoder:
    """Turns dialogues into tokens, with one tokenizer."""

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        fast: Any = AutoTokenizer.from_pretrained(tokenizer.folder, local_files_only=True, trust_remote_code=False)
        self._backend = without_special_tokens(tokenizer.backend)
        opening = tokenizer.backend.encode("a")
        self._opening_ids = opening.ids[: opening.special_tokens_mask.index(0)]
        special = {id_ for id_, token in fast.added_tokens_decoder.items() if token.special}
        self._special_ids = special | {tokenizer.eos_token_id}
        opening_text = "".join(str(self._backend.id_to_token(id_)) for id_ in self._opening_ids)
        end = str(tokenizer.backend.id_to_token(tokenizer.eos_token_id))
        self._layout = ChatLayout(fast, tokenizer.folder, opening_text, end)

    def encode(self, dialogues: Sequence[Dialogue]) -> list[Tokens]:
        """Return the tokens of each.

        Raises:
            UserError: DATA_ERROR where the chat template cannot be trained with, or refuses a conversation.
        """
        return [self._find_spans(*laid_out) for laid_out in self._tokenize(dialogues)]

    def encode_to_end(self, dialogues: Sequence[Dialogue]) -> list[Tokens]:
        """Return the tokens of each, trained on from the start of the first trained turn to the end of the text.

        Raises:
            UserError: DATA_ERROR where there is no chat template, or it refuses a conversation.
        """
        for dialogue in dialogues:
            if dialogue.is_chat:
                self._layout.require_template(dialogue)
        found = []
        for dialogue, text, encoding in self._tokenize(dialogues):
            ids, offsets = self._split_at_answers(text, encoding)
            opening = [] if dialogue.is_chat else self._opening_ids
            start = int(np.searchsorted(offsets[:, 0], text.answers[0][0]))
            found.append(Tokens([*opening, *ids], [(len(opening) + start, len(opening) + len(ids))]))
        return found

    def encode_prompts(self, prompts: Sequence[Dialogue], with_opening: bool = True) -> list[list[int]]:
        """Return the tokens that the model is given of each dialogue, whose last turn is the user's, to answer it.

        Args:
            prompts: conversations are laid out by the tokenizer's own template.
            with_opening: whether what is no conversation begins with the tokenizer's opening token.

        Raises:
            UserError: DATA_ERROR where there is no chat template, or it refuses a conversation.
        """
        texts = [self._layout.open_answer(prompt) if prompt.is_chat else prompt.turns[0].content for prompt in prompts]
        encodings = self._backend.encode_batch(texts)
        opening = self._opening_ids if with_opening else []
        return [
            encoding.ids if prompt.is_chat else [*opening, *encoding.ids]
            for prompt, encoding in zip(prompts, encodings, strict=True)
        ]

    def _tokenize(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[Dialogue, LaidOut, Encoding]]:
        texts = [self._layout.lay_out(dialogue) for dialogue in dialogues]
        return zip(dialogues, texts, self._backend.encode_batch([text.text for text in texts]), strict=True)

    def _find_spans(self, dialogue: Dialogue, text: LaidOut, encoding: Encoding) -> Tokens:
        ids, offsets = self._split_at_answers(text, encoding)
        is_special = np.isin(ids, list(self._special_ids))
        opening = [] if dialogue.is_chat else self._opening_ids
        spans = []
        for start, answer_end in text.answers:
            ends = np.flatnonzero(is_special & (offsets[:, 0] >= answer_end))
            if not ends.size:
                raise UserError(
                    f"{dialogue.place}: the model's chat template ends the assistant's turn with no special token, so "
                    "that a model would never learn to stop: add the tokenizer's eos_token to the template there",
                    ExitCode.DATA_ERROR,
                )
            first = int(np.searchsorted(offsets[:, 0], start))
            spans.append((len(opening) + first, len(opening) + int(ends[0]) + 1))
        return Tokens([*opening, *ids], spans)

    def _split_at_answers(self, text: LaidOut, encoding: Encoding) -> tuple[list[int], NDArray[np.int64]]:
        """Return token ids and their offsets [tokens, 2] in the text; none reaches from a prompt into its answer."""
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        cuts = [start for start, _ in text.answers if _is_within_a_token(start, offsets)]
        if not cuts:
            return encoding.ids, offsets
        bounds = [0, *cuts, len(text.text)]
        pieces = [self._backend.encode(text.text[low:high]) for low, high in pairwise(bounds)]
        shifted = [
            np.array(piece.offsets, dtype=np.int64).reshape(-1, 2) + low
            for piece, low in zip(pieces, bounds, strict=False)
        ]
        return [id_ for piece in pieces for id_ in piece.ids], np.concatenate(shifted)


def without_special_tokens(backend: Tokenizer) -> Tokenizer:
    """Return a copy that adds no special tokens, and whose offsets count the spaces within a token."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = None
    return copy


def _is_within_a_token(place: int, offsets: NDArray[np.int64]) -> bool:
    before = int(np.searchsorted(offsets[:, 0], place)) - 1
    return before >= 0 and bool(offsets[before, 1] > place)
