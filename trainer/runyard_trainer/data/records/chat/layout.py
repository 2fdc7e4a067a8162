"""The text of a dialogue, and where in it the model is to write.

A conversation is laid out by the tokenizer's chat template. A tokenizer without one gets a plain one, known from Tülu,
once there is a conversation to lay out; it is saved with the tokenizer:

    <|system|>
    ...
    <|user|>
    ...
    <|assistant|>
    ...<the end-of-document token>

A prompt with its completion is no conversation: its text is the prompt, the completion and the end-of-document token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.data.records.chat.messages import Dialogue

TEMPLATE_FILE = "chat_template.jinja"
"""The file with the template in a tokenizer's folder."""


@dataclass(frozen=True)
class LaidOut:
    """A dialogue as text."""

    text: str
    answers: list[tuple[int, int]]
    """What is trained on, in characters: where the model begins to write, and where what it says ends."""


class ChatLayout:
    """Lays out dialogues as one tokenizer's chat template says."""

    def __init__(self, tokenizer: Any, folder: Path, opening: str, end: str) -> None:
        """Take the template of a tokenizer.

        Args:
            tokenizer: transformers' own.
            folder: of the tokenizer, where a plain template is saved.
            opening: the tokens that begin every text, as text; may be empty.
            end: the end-of-document token, as text.
        """
        self._tokenizer = tokenizer
        self._folder = folder
        self._opening = opening
        self._end = end

    def lay_out(self, dialogue: Dialogue) -> LaidOut:
        """Return a dialogue as text, with a plain template where there is none.

        Raises:
            UserError: DATA_ERROR where the template cannot be trained with, or refuses the conversation.
        """
        if dialogue.is_chat:
            return self._apply_template(dialogue)
        prompt, completion = (turn.content for turn in dialogue.turns)
        answer = (len(prompt), len(prompt) + len(completion.removesuffix(self._end)))
        text = prompt + completion.removesuffix(self._end) + self._end
        return LaidOut(text, [answer] if dialogue.turns[1].is_trained else [])

    def open_answer(self, dialogue: Dialogue) -> str:
        """Return a dialogue that ends with the user's turn as text, up to where the model begins to answer.

        Raises:
            UserError: DATA_ERROR where there is no template, or it refuses the conversation.
        """
        self.require_template(dialogue)
        try:
            text = self._render([turn.to_message() for turn in dialogue.turns], is_asked=True)
        except Exception as error:  # a template raises what it wants
            raise _build_refusal(dialogue, error) from error
        _check_system(dialogue, text)
        return text

    def require_template(self, dialogue: Dialogue) -> None:
        """Refuse a tokenizer without a chat template of its own.

        Raises:
            UserError: DATA_ERROR.
        """
        if self._tokenizer.chat_template is None:
            raise UserError(
                f"{dialogue.place}: the model's tokenizer has no chat template to lay messages out with: put a "
                f"{TEMPLATE_FILE} beside it, or give texts instead",
                ExitCode.DATA_ERROR,
            )

    def _apply_template(self, dialogue: Dialogue) -> LaidOut:
        if self._tokenizer.chat_template is None:
            self._save_plain_template()
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
            raise _build_refusal(dialogue, error) from error
        return LaidOut(text, answers)

    def _save_plain_template(self) -> None:
        self._tokenizer.chat_template = build_template(self._opening, self._end)
        (self._folder / TEMPLATE_FILE).write_text(self._tokenizer.chat_template, encoding="utf-8")

    def _render(self, messages: list[dict[str, Any]], is_asked: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_asked)
        return text


def _build_refusal(dialogue: Dialogue, error: Exception) -> UserError:
    return UserError(
        f"{dialogue.place}: the model's chat template refuses this conversation: {error}", ExitCode.DATA_ERROR
    )


def build_template(opening: str, end: str) -> str:
    """Return the plain chat template that the module shows.

    Args:
        opening: the tokens that begin every text, as text; may be empty.
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


def _find_answer(text: str, prompt: str, content: str, where: str) -> tuple[int, int]:
    """Return where the model begins to write in a conversation's text, and where what it says ends."""
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
    """Refuse a template that leaves out what the system says, as some do; white space is the template's to choose."""
    for turn in dialogue.turns:
        if turn.role in ("system", "developer") and "".join(turn.content.split()) not in "".join(text.split()):
            raise UserError(
                f"{dialogue.place}: the model's chat template leaves out what the {turn.role} says: mend the template, "
                "or write it into the first message of the user",
                ExitCode.DATA_ERROR,
            )
