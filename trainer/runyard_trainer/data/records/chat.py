"""Dialogues as tokens, and which of them the model is to write itself.

    Dialogue ─(chat template, or the text as it stands)─> text ─(tokenizer)─> token ids, and spans that are trained on

A span begins where the model begins to write when it is asked: behind the prompt with the template's opening of an
assistant's turn. It ends with the first special token behind the answer, which is what stops the model. So the tokens
before a span are those that the model will be given, and those within it are those that it is to give.

A tokenizer without a chat template gets a plain one, known from Tülu, once there is a conversation to lay out; it is
saved with the tokenizer:

    <|system|>
    ...
    <|user|>
    ...
    <|assistant|>
    ...<the end-of-document token>

A prompt with its completion is no conversation: it is the tokenizer's opening token, if there is one, the prompt, the
completion and the end-of-document token.

Where answers are compared (`preference`), a span goes on to the end of the text, and a template is not made up: to
prefer one answer teaches no layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.records import unread
from runyard_trainer.data.sources.rows import BadRecord, Row
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

TEMPLATE_FILE = "chat_template.jinja"
"""Where a tokenizer's folder has its template."""


@dataclass(frozen=True)
class Turn:
    """What one speaker says."""

    role: str
    """system, user or assistant."""
    content: str
    is_trained: bool = False

    def to_message(self) -> dict[str, Any]:
        """As templates read it."""
        return {"role": self.role, "content": self.content}


def put_system_first(row: Row, turns: tuple[Turn, ...], name: str) -> tuple[Turn, ...]:
    """What stands in the row's field of the system, before the turns of the field `name`.

    Raises:
        BadRecord: it is no text, or the turns begin with the system, who says something else.
    """
    if unread.is_nothing(row.fields.get(row.name_of("system"))):
        return turns
    system = Turn("system", row.text("system"))
    if turns[0].role != "system" or not turns[0].content.strip():
        return system, *turns[turns[0].role == "system" :]
    if turns[0].content.strip() != system.content.strip():
        raise BadRecord(
            f"field {row.name_of('system')!r} and the first of {name!r} are both the system's, and differ: keep one"
        )
    return turns


@dataclass(frozen=True)
class Dialogue:
    """Turns, the first of which is not the assistant's."""

    turns: tuple[Turn, ...]
    is_chat: bool
    """False: a prompt and its completion, without a template."""
    place: str
    """Where it was read."""
    detected_format: str | None = None
    """What its fields show; None where its source says what it is."""


@dataclass(frozen=True)
class Tokens:
    """A dialogue as token ids."""

    ids: list[int]
    spans: list[tuple[int, int]]
    """Start and end of each run of trained tokens."""


@dataclass(frozen=True)
class _Text:
    """A dialogue as text, and in it what the model is to write: from where, and to where the answer itself goes."""

    text: str
    answers: list[tuple[int, int]]


class ChatEncoder:
    """Dialogues to tokens, with one tokenizer."""

    def __init__(self, tokenizer: DocumentTokenizer) -> None:
        self._folder = tokenizer.folder
        self._fast: Any = AutoTokenizer.from_pretrained(
            tokenizer.folder, local_files_only=True, trust_remote_code=False
        )
        self._backend = without_special_tokens(tokenizer.backend)
        opening = tokenizer.backend.encode("a")
        self._opening_ids = opening.ids[: opening.special_tokens_mask.index(0)]
        self._end = str(tokenizer.backend.id_to_token(tokenizer.eos_token_id))
        added = self._fast.added_tokens_decoder
        self._special_ids = {id_ for id_, token in added.items() if token.special} | {tokenizer.eos_token_id}

    def encode(self, dialogues: Sequence[Dialogue]) -> list[Tokens]:
        """The tokens of each.

        Raises:
            UserError: DATA_ERROR where the chat template cannot be trained with, or refuses a conversation.
        """
        return [self._find_spans(*laid_out) for laid_out in self._tokenize(dialogues)]

    def encode_to_end(self, dialogues: Sequence[Dialogue]) -> list[Tokens]:
        """The tokens of each, trained on from where the first trained turn begins to the end of the text.

        Raises:
            UserError: DATA_ERROR where there is no chat template, or it refuses a conversation.
        """
        for dialogue in dialogues:
            if dialogue.is_chat:
                self._require_template(dialogue)
        found = []
        for dialogue, text, encoding in self._tokenize(dialogues):
            ids, offsets = self._split_at_answers(text, encoding)
            opening = [] if dialogue.is_chat else self._opening_ids
            start = int(np.searchsorted(offsets[:, 0], text.answers[0][0]))
            found.append(Tokens([*opening, *ids], [(len(opening) + start, len(opening) + len(ids))]))
        return found

    def encode_prompts(self, prompts: Sequence[Dialogue], with_opening: bool = True) -> list[list[int]]:
        """The tokens that the model is given of each dialogue, whose last turn is the user's, to answer it.

        Args:
            prompts: conversations are laid out by the tokenizer's own template.
            with_opening: whether what is no conversation begins with the tokenizer's opening token.

        Raises:
            UserError: DATA_ERROR where there is no chat template, or it refuses a conversation.
        """
        texts = [self._open_answer(prompt) if prompt.is_chat else prompt.turns[0].content for prompt in prompts]
        encodings = self._backend.encode_batch(texts)
        opening = self._opening_ids if with_opening else []
        return [
            encoding.ids if prompt.is_chat else [*opening, *encoding.ids]
            for prompt, encoding in zip(prompts, encodings, strict=True)
        ]

    # ---------------------------------------------------------------------------------------------------------- text

    def _open_answer(self, dialogue: Dialogue) -> str:
        self._require_template(dialogue)
        try:
            text = self._render([turn.to_message() for turn in dialogue.turns], is_asked=True)
        except Exception as error:  # a template raises what it wants
            raise UserError(
                f"{dialogue.place}: the model's chat template refuses this conversation: {error}", ExitCode.DATA_ERROR
            ) from error
        _check_system(dialogue, text)
        return text

    def _lay_out(self, dialogue: Dialogue) -> _Text:
        if dialogue.is_chat:
            return self._apply_template(dialogue)
        prompt, completion = (turn.content for turn in dialogue.turns)
        answer = (len(prompt), len(prompt) + len(completion.removesuffix(self._end)))
        text = prompt + completion.removesuffix(self._end) + self._end
        return _Text(text, [answer] if dialogue.turns[1].is_trained else [])

    def _apply_template(self, dialogue: Dialogue) -> _Text:
        if self._fast.chat_template is None:
            self._bring_template()
        messages = [turn.to_message() for turn in dialogue.turns]
        try:
            text = self._render(messages, is_asked=False)
            _check_system(dialogue, text)
            answers = []
            for i, turn in enumerate(dialogue.turns):
                if turn.is_trained:
                    prompt = self._render(messages[:i], is_asked=True)
                    answers.append(_find_answer(text, prompt, turn.content, f"{dialogue.place}: message {i}"))
        except UserError:
            raise
        except Exception as error:  # a template raises what it wants
            raise UserError(
                f"{dialogue.place}: the model's chat template refuses this conversation: {error}", ExitCode.DATA_ERROR
            ) from error
        return _Text(text, answers)

    def _require_template(self, dialogue: Dialogue) -> None:
        if self._fast.chat_template is None:
            raise UserError(
                f"{dialogue.place}: the model's tokenizer has no chat template to lay messages out with: put a "
                f"{TEMPLATE_FILE} beside it, or give texts instead",
                ExitCode.DATA_ERROR,
            )

    def _bring_template(self) -> None:
        opening = "".join(str(self._backend.id_to_token(id_)) for id_ in self._opening_ids)
        self._fast.chat_template = build_template(opening, self._end)
        (self._folder / TEMPLATE_FILE).write_text(self._fast.chat_template, encoding="utf-8")

    def _render(self, messages: list[dict[str, Any]], is_asked: bool) -> str:
        text: str = self._fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_asked)
        return text

    # -------------------------------------------------------------------------------------------------------- tokens

    def _tokenize(self, dialogues: Sequence[Dialogue]) -> Iterator[tuple[Dialogue, _Text, Encoding]]:
        texts = [self._lay_out(dialogue) for dialogue in dialogues]
        return zip(dialogues, texts, self._backend.encode_batch([text.text for text in texts]), strict=True)

    def _find_spans(self, dialogue: Dialogue, text: _Text, encoding: Encoding) -> Tokens:
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

    def _split_at_answers(self, text: _Text, encoding: Encoding) -> tuple[list[int], NDArray[np.int64]]:
        """Token ids and their places [tokens, 2] in the text, none of which reaches from a prompt into its answer."""
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


def build_template(opening: str, end: str) -> str:
    """The plain chat template, see the module.

    Args:
        opening: what the tokenizer begins every text with; may be empty.
        end: the token that ends a turn of the assistant.
    """
    parts = [
        "{{ OPENING }}" if opening else "",
        "{% for message in messages %}",
        "{{ '<|' + message['role'] + '|>\\n' + (message['content'] | trim) }}",
        "{% if message['role'] == 'assistant' %}{{ END }}{% endif %}{{ '\\n' }}",
        "{% endfor %}",
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}",
    ]
    return "".join(parts).replace("OPENING", json.dumps(opening)).replace("END", json.dumps(end))


def without_special_tokens(backend: Tokenizer) -> Tokenizer:
    """A copy that adds none, and says of each token where it lies in the text, spaces included."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.post_processor = None
    return copy


def _find_answer(text: str, prompt: str, content: str, where: str) -> tuple[int, int]:
    """Where the model begins to write in a conversation's text, and where what it says ends."""
    if not text.startswith(prompt):
        raise UserError(
            f"{where}: the model's chat template lays out what comes before it otherwise when it is asked for an "
            "answer than when the answer is there, so that the model would be trained on other prompts than it will "
            "get: mend the template, or split the conversation",
            ExitCode.DATA_ERROR,
        )
    found = text.find(content.strip(), len(prompt))
    return len(prompt), len(prompt) if found < 0 else found + len(content.strip())


def _check_system(dialogue: Dialogue, text: str) -> None:
    """Some templates pass over the system without a word. They may lay out its white space as they like."""
    for turn in dialogue.turns:
        if turn.role in ("system", "developer") and "".join(turn.content.split()) not in "".join(text.split()):
            raise UserError(
                f"{dialogue.place}: the model's chat template leaves out what the {turn.role} says: mend the template, "
                "or write it into the first message of the user",
                ExitCode.DATA_ERROR,
            )


def _is_within_a_token(place: int, offsets: NDArray[np.int64]) -> bool:
    before = int(np.searchsorted(offsets[:, 0], place)) - 1
    return before >= 0 and bool(offsets[before, 1] > place)
