"""Prompts with the answers that a model is to learn, in one of four formats (`chat.formats`).

All records have one format, unless their sources say theirs. A conversation is laid out by the tokenizer's chat
template (`chat.layout`). Trained on is what the model is to write itself: a completion, or what the assistant says, in
earlier turns too, each with the token that ends it. What is longer than a sequence loses its end; a record of which
nothing trained would be left is refused, unless invalid rows are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.base import Example, RecordKind, Shown
from runyard_trainer.data.records.chat.encoder import ChatEncoder, Tokens
from runyard_trainer.data.records.chat.formats import parse_dialogue
from runyard_trainer.data.records.chat.messages import Dialogue
from runyard_trainer.data.records.packing import PackedRecords, open_packed_records
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer

_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "spans": pa.list_(pa.int32())})
"""`spans`: start and end of each run of trained tokens, one after the other."""

_SHOWN_PROBLEMS = 10


@dataclass
class DialogueEncoder:
    """Encodes dialogues as token ids, cut to the sequence length, and the spans that are trained on."""

    chat: ChatEncoder
    length: int
    may_drop: bool = False
    """Whether records that are too long are left out rather than refused."""
    schema: pa.Schema = _SCHEMA
    first: Dialogue | None = None
    """The first record whose source does not say its format; the others must have the same one."""
    stop_token_ids: set[int] = field(default_factory=set)
    """The tokens that end answers."""
    problems: list[str] = field(default_factory=list)
    """A message for each record that is too long."""

    def encode(self, records: Sequence[Dialogue]) -> list[list[Example]]:
        """Encode records, see `Encoder`."""
        for record in records:
            self._check_format(record)
        return [
            self._to_examples(record, tokens) for record, tokens in zip(records, self.chat.encode(records), strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Describe all records, see `Encoder`."""
        if self.problems:
            num_more = len(self.problems) - _SHOWN_PROBLEMS
            more = [f"... and {num_more} more like these ({len(self.problems)} in all)"] if num_more > 0 else []
            raise UserError("\n".join(self.problems[:_SHOWN_PROBLEMS] + more), ExitCode.DATA_ERROR)
        return {"stop_token_ids": sorted(self.stop_token_ids)}

    def _check_format(self, record: Dialogue) -> None:
        if record.detected_format is None:
            return
        self.first = self.first or record
        if record.detected_format != self.first.detected_format:
            raise UserError(
                f"{record.place}: this record has the fields of {record.detected_format}, and that at "
                f"{self.first.place} those of {self.first.detected_format}: write all of them alike, or in sources "
                "that say their format",
                ExitCode.DATA_ERROR,
            )

    def _to_examples(self, record: Dialogue, tokens: Tokens) -> list[Example]:
        """Cut a dialogue to the sequence length; its first token is predicted from nothing, so it is not trained on."""
        self.stop_token_ids.update(tokens.ids[end - 1] for _, end in tokens.spans)
        spans = [(max(start, 1), min(end, self.length)) for start, end in tokens.spans]
        spans = [(start, end) for start, end in spans if start < end]
        if not spans:
            if not self.may_drop:
                self.problems.append(
                    f"{record.place}: {tokens.spans[0][0]} tokens come before the answer, and training.sequenceLength "
                    f"is {self.length}: lengthen it, or leave the record out"
                )
            return []
        columns = {"input_ids": tokens.ids[: self.length], "spans": np.array(spans).ravel().tolist()}
        text_bytes = sum(len(turn.content.encode()) for turn in record.turns)
        return [Example(columns, text_bytes, is_truncated=len(tokens.ids) > self.length)]


def _build_encoder(tokenizer: DocumentTokenizer, recipe: Recipe) -> DialogueEncoder:
    may_drop = recipe.data.invalid_rows == "Drop"
    return DialogueEncoder(ChatEncoder(tokenizer), recipe.training.sequence_length, may_drop)


def _show(columns: dict[str, Any]) -> Shown:
    starts, ends = columns["spans"][::2], columns["spans"][1::2]
    return Shown(list(zip(starts, ends, strict=True)))


def _to_json(record: Dialogue) -> dict[str, Any]:
    """Return the record as prompt and completion, or as messages."""
    if not record.is_chat:
        prompt, completion = record.turns
        return {"prompt": prompt.content, "completion": completion.content}
    messages = [turn.to_message() for turn in record.turns]
    for turn, message in zip(record.turns, messages, strict=True):
        if turn.role == "assistant" and not turn.is_trained:
            message["weight"] = 0
    return {"messages": messages}


DEFINITION = (
    "A conversation is laid out by the tokenizer's chat template, a prompt and its completion as they stand, with "
    "the end-of-document token; no token reaches from a prompt into its answer. Each is cut to sequenceLength "
    "tokens, and they are packed so that none attends to another. The loss is the mean of -ln p over the tokens of "
    "the answers and those that end them, in nats. Exact match and ROUGE (rouge-score's F-measures, without "
    "stemming) compare the last answers of at most 64 records, spread evenly, with what the model writes greedily, "
    "up to 128 tokens or half a sequence."
)

KIND = RecordKind(
    definition=DEFINITION,
    parse=parse_dialogue,
    identity=lambda record: "\n".join(turn.content for turn in record.turns),
    to_json=_to_json,
    build_encoder=_build_encoder,
    open_samples=open_packed_records,
    split_samples=lambda samples, _info, _recipe: cast(PackedRecords, samples).sizes,
    show=_show,
    depends_on=lambda recipe: {"sequenceLength": recipe.training.sequence_length},
)
