"""Read and check the prompts that are answered for a judge, and lay them out in tokens as the model reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from runyard_trainer.contract.data import DataSource
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.objectives import OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Report
from runyard_trainer.data.records.chat.encoder import ChatEncoder
from runyard_trainer.data.records.chat.messages import (
    Dialogue,
    Turn,
    parse_message,
    parse_messages,
    put_system_first,
)
from runyard_trainer.data.records.unread import CHATS, TEXTS, Said, refuse_unread_of_message, refuse_unread_of_row
from runyard_trainer.data.sources.listing import list_source
from runyard_trainer.data.sources.reading import read_records
from runyard_trainer.data.sources.rows import BadRecord, Row, check_text
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

MAX_PROMPTS = 128
"""Prompts that are judged at most: their answers are written and compared while GPUs are held."""

MAX_ANSWER_TOKENS = 256

_FIELD = "evaluation.judge.prompts.uri"


class FrozenPrompt(Report):
    """A prompt, as text and as tokens."""

    text: str
    """As the judge reads it."""
    prompt_ids: list[int]
    """As the model reads it."""


class FrozenPrompts(Report):
    """The prompts of a run."""

    prompts: list[FrozenPrompt] = Field(default_factory=list)
    max_new_tokens: int = 0
    """Tokens that an answer may have."""
    records: int = 0
    """Records in the files."""
    too_long: int = 0
    """Chosen prompts that leave no room for an answer, and are left out."""

    def map_ids(self, map_: Callable[[list[int]], list[int]]) -> FrozenPrompts:
        """Return the prompts with their token ids mapped."""
        changed = [prompt.model_copy(update={"prompt_ids": map_(prompt.prompt_ids)}) for prompt in self.prompts]
        return self.model_copy(update={"prompts": changed})


def build_prompts(recipe: Recipe, tokenizer: DocumentTokenizer, max_tokens: int) -> FrozenPrompts:
    """Build at most MAX_PROMPTS prompts, spread evenly over the records, each opened as the objective's records are.

    Args:
        recipe: says where the prompts are, and how to reach storage.
        tokenizer: the model's.
        max_tokens: tokens that the model can read and write together.

    Raises:
        UserError: DATA_ERROR, for what is wrong with the files.
    """
    assert recipe.evaluation.judge is not None, "there is one to answer to"
    uri = recipe.evaluation.judge.prompts.uri
    records = list(read_records(list_source(DataSource(uri=uri), 0, recipe.storage, _FIELD), parse_prompt))
    if not records:
        raise UserError(f"{_FIELD}: {uri} has no records", ExitCode.DATA_ERROR)
    count = min(len(records), MAX_PROMPTS)
    chosen = [records[number * len(records) // count] for number in range(count)]
    max_new_tokens = min(MAX_ANSWER_TOKENS, max_tokens // 2)
    all_ids = ChatEncoder(tokenizer).encode_prompts(
        chosen, with_opening=not OBJECTIVES[recipe.objective].continues_text
    )
    prompts = [
        FrozenPrompt(text=format_prompt(record.turns), prompt_ids=ids)
        for record, ids in zip(chosen, all_ids, strict=True)
        if 0 < tokenizer.base_length(ids) <= max_tokens - max_new_tokens
    ]
    if not prompts:
        raise UserError(
            f"{_FIELD}: no prompt of {uri} fits the model's {max_tokens} tokens with an answer of "
            f"{max_new_tokens}: give shorter ones",
            ExitCode.DATA_ERROR,
        )
    return FrozenPrompts(
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        records=len(records),
        too_long=count - len(prompts),
    )


def parse_prompt(row: Row) -> Dialogue:
    """Parse a record of `prompt`, or of `messages` and maybe `system`; raise BadRecord for any other."""
    found = [name for name in ("prompt", "messages") if name in row.fields]
    if len(found) != 1:
        raise BadRecord(f"expected one of the fields 'prompt' and 'messages', found {' and '.join(found) or 'neither'}")
    if found == ["messages"]:
        turns = parse_messages(row.fields["messages"], "messages", _parse_message)
        if turns[-1].role != "user":
            raise BadRecord(f"the last message is the {turns[-1].role}'s: end with the user's, which the model answers")
        turns = put_system_first(row, turns, "messages")
        said = Said([turn.content for turn in turns])
        refuse_unread_of_row(row, CHATS, ["messages", "system"], said, done="read")
        return Dialogue(turns, is_chat=True, place=row.place)
    text = check_text(row.fields["prompt"], "prompt")
    if not text.strip():
        raise BadRecord("field 'prompt' is empty")
    refuse_unread_of_row(row, TEXTS, ["prompt"], Said([text]), done="read")
    return Dialogue((Turn("user", text),), is_chat=False, place=row.place)


def _parse_message(item: dict[str, Any], where: str) -> Turn:
    turn = parse_message(item, where)
    refuse_unread_of_message(item, where, is_trained=None, done="read")
    return turn


def format_prompt(turns: Sequence[Turn]) -> str:
    """Format a prompt for the judge: a single turn as it is, a conversation with its speakers."""
    if len(turns) == 1:
        return turns[0].content
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in turns)
