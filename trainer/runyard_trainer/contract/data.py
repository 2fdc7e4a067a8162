"""What to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from runyard_trainer.contract.base import Model, Uri, check_exactly_one
from runyard_trainer.contract.objectives import OBJECTIVES

ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


class Columns(Model):
    """Which fields of a record hold what, where they have other names than these."""

    text: ColumnName = "text"
    """The field with the text; where there is none, Bedrock's `input` is taken for it."""
    input_ids: ColumnName = "input_ids"
    """Token ids instead of a text, made by the tokenizer of the run, where the language itself is learned."""
    text_pair: ColumnName = "text_pair"
    """A second text, for classification of pairs."""
    label: ColumnName = "label"
    """The class of a text, for classification."""
    labels: ColumnName = "labels"
    """The classes of a text that may have several."""
    prompt: ColumnName = "prompt"
    """What is answered, for sft and preference."""
    completion: ColumnName = "completion"
    """Its answer, for sft."""
    messages: ColumnName = "messages"
    """A conversation of messages with `role` and `content`, for sft."""
    conversations: ColumnName = "conversations"
    """A conversation of messages with `from` and `value`, for sft."""
    instruction: ColumnName = "instruction"
    """What the model is to do, for sft on Alpaca's records."""
    input: ColumnName = "input"
    """What it is to do that with; may be absent or empty."""
    output: ColumnName = "output"
    """Its answer to that."""
    system: ColumnName = "system"
    """What the system says, beside the messages of sft and preference and on Alpaca's records; may be absent."""
    history: ColumnName = "history"
    """Earlier turns on Alpaca's records, as a list of pairs: what the user said, and the answer; may be absent."""
    tokens: ColumnName = "tokens"
    """The words of a text, as a list, for token-classification."""
    tags: ColumnName = "tags"
    """The tag of each word, as a list."""
    id: ColumnName = "id"
    """The name of a question, for question-answering; it may be absent."""
    context: ColumnName = "context"
    """The text that holds the answer."""
    question: ColumnName = "question"
    """The question."""
    answers: ColumnName = "answers"
    """Its answers, as an object of two lists: `text`, and `answer_start`, where each begins in the context."""
    sentences: ColumnName = "sentences"
    """The sentences of a document as a list, for masked-lm-nsp."""
    chosen: ColumnName = "chosen"
    """The better of two answers, for preference."""
    rejected: ColumnName = "rejected"
    """The worse of two answers."""


_FILE_FORMATS = ("auto", "text", "jsonl", "json", "csv", "tsv", "parquet")

RECORD_FORMATS: dict[str, tuple[str, ...]] = {
    name: traits.record_formats for name, traits in OBJECTIVES.items() if traits.record_formats
}
"""By objective: the formats of its records that a source can be said to have."""


class DataSource(Model):
    """A file, or every file under a prefix, in order of name. `.gz` and `.zst` are decompressed."""

    uri: Uri
    """An object, or a prefix ending in `/`."""
    format: Literal[
        "auto",
        "text",
        "jsonl",
        "json",
        "csv",
        "tsv",
        "parquet",
        "prompt-completion",
        "messages",
        "alpaca",
        "conversations",
    ] = "auto"
    """`text`: one document a file. `jsonl`: one JSON object a line. `json`: an array of objects, or one a line. `csv`:
    a header, then a record a row, values with separators or line ends quoted by `"`; where the file ends in .tsv, with
    tabs for separators. `tsv`: a header, then a record a line with tabs between its values, where quotation marks are
    characters like others. `parquet`: a record a row. `auto`: by the file's ending: .jsonl and .ndjson, .json, .csv,
    .tsv, .parquet, and text for any other. The others say what the records of sft are, where their fields do not; the
    file is as it ends."""
    columns: Columns = Columns()
    """The record's fields; a text file has none."""


Sources = Annotated[list[DataSource], Field(min_length=1, max_length=64)]


class TrainSource(DataSource):
    """A source of the domain's text, and how much it counts."""

    weight: float = Field(default=1.0, gt=0, le=100)
    """How often each of its samples is trained on in an epoch: 2 is twice, 0.5 half of them, the others in the next
    epoch. For mixing sources; of one source alone, say training.epochs."""


DEFAULT_VALIDATION_FRACTION = 0.02


class Validation(Model):
    """What of the domain is held out. At most one of `fraction` and `sources`."""

    fraction: float | None = Field(default=None, ge=0, le=0.5)
    """Share of the records of `data.train`, chosen by a hash of their text, that is never trained on. 0: none.
    Absent, and `sources` too: 0.02."""
    sources: Sources | None = None
    """Held-out data of its own; records of `data.train` with the same text are not trained on."""

    @model_validator(mode="after")
    def _check_one_of(self) -> Validation:
        if self.fraction is not None and self.sources is not None:
            raise ValueError("data.validation.fraction and data.validation.sources are both set: keep one of them")
        return self

    @property
    def held_out_fraction(self) -> float:
        """Of `data.train`, default resolved."""
        if self.fraction is not None:
            return self.fraction
        return DEFAULT_VALIDATION_FRACTION if self.sources is None else 0.0


class Replay(Model):
    """Text of the kind that the model already knows, mixed in so that it forgets less."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the sequences of every step (on average) that are replayed instead of trained from `data.train`."""
    sources: Sources | None = None
    """The text to replay. Exactly one of `sources` and `source`."""
    source: Literal["self"] | None = None
    """`self`: text that the model itself writes before it is trained, for when its own is not at hand. For causal-lm.
    It costs a forward pass a token, and is kept below `replay/` of the output."""

    @model_validator(mode="after")
    def _check_one_of(self) -> Replay:
        check_exactly_one(self, "data.replay", "sources", "source")
        return self


class Decontamination(Model):
    """Leave out what is, in parts, the same as held-out data."""

    ngram: int = Field(default=13, ge=5, le=100)
    """So many words in a row that a record shares with one of `data.validation` or `evaluation.general`, whatever their
    case and punctuation, keep it from being trained on or replayed."""


TARGET_METHODS = ("combined", "similarity")
"""Those that compare with text of a task."""
REFERENCE_METHODS = ("combined", "novelty-diversity")
"""Those that compare with text that the model knows already."""
DEFAULT_NOISE_CLIP = 0.1
PERPLEXITY_REFUSAL = (
    "data.select.method perplexity picks noise: what surprises a model most is what nobody wrote for it to learn (in a "
    "trial it took all 60 noise documents of 1,000 into its 100): choose novelty-diversity, which asks for variety too "
    "and leaves out the extreme"
)


class Select(Model):
    """Train on a part of the domain's documents: those that are worth it, chosen when the data is prepared."""

    method: Literal["similarity", "novelty-diversity", "combined", "perplexity"]
    """`similarity`: documents most like the text of a task (TF-IDF). `novelty-diversity`: those that are new to the
    model (perplexity of a small model of `reference`) and varied (entropy of their tokens), by the mean of both ranks;
    it needs no task. `combined`: by the mean of all three ranks. `perplexity`: refused, as it picks noise."""
    fraction: float = Field(gt=0, lt=1)
    """Share of the documents of `data.train` to train on, of those that nothing else leaves out and that are not held
    out."""
    target: Sources | None = None
    """Text of the task, for similarity and combined: some hundred of its texts or questions will do. Take no held-out
    ones: what is chosen by them does too well on them."""
    reference: Sources | None = None
    """Text of the kind that the model knows already, for novelty-diversity and combined. Absent:
    `data.replay.sources`."""
    sampling: Literal["hard", "soft"] = "hard"
    """`hard`: the documents that rank highest. `soft`: as many, drawn by `training.seed` with their ranks as weights,
    none twice: less of the same."""
    noise_clip: float | None = Field(default=None, ge=0, le=0.5)
    """Share of the documents to leave out first, for novelty-diversity and combined: those that surprise most (and, for
    combined, are least like the target). Absent: 0.1."""

    @property
    def uses_target(self) -> bool:
        """Whether documents are compared with text of a task."""
        return self.method in TARGET_METHODS

    @property
    def uses_reference(self) -> bool:
        """Whether they are compared with text that the model knows."""
        return self.method in REFERENCE_METHODS

    @property
    def compared(self) -> dict[str, list[DataSource]]:
        """The texts to compare with, by field."""
        named = {"target": self.target, "reference": self.reference}
        return {name: sources for name, sources in named.items() if sources is not None}

    @property
    def resolved_noise_clip(self) -> float:
        """Default resolved; 0 where nothing is told of noise."""
        if not self.uses_reference:
            return 0.0
        return DEFAULT_NOISE_CLIP if self.noise_clip is None else self.noise_clip

    @model_validator(mode="after")
    def _check_method(self) -> Select:
        if self.method == "perplexity":
            raise ValueError(PERPLEXITY_REFUSAL)
        if self.uses_target and self.target is None:
            raise ValueError(f"data.select.method {self.method} needs data.select.target: give texts of the task")
        for name, value, is_used in (
            ("target", self.target, self.uses_target),
            ("reference", self.reference, self.uses_reference),
            ("noiseClip", self.noise_clip, self.uses_reference),
        ):
            if value is not None and not is_used:
                raise ValueError(f"data.select.{name} has no use for method {self.method}: remove it")
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> Select:
        if self.fraction + self.resolved_noise_clip > 1:
            raise ValueError(
                f"data.select.fraction {self.fraction:g} and noiseClip {self.resolved_noise_clip:g} are more than all "
                "documents together: lower one of them"
            )
        return self


class Data(Model):
    """The text to learn from."""

    train: Annotated[list[TrainSource], Field(min_length=1, max_length=64)]
    """The domain's text."""
    validation: Validation = Validation()
    """The held-out part of it."""
    replay: Replay | None = None
    """Earlier text to keep mixing in."""
    deduplicate: Literal["none", "exact", "near"] = "exact"
    """`exact`: of records that are the same, the first is kept. `near`: of those too whose texts share about 0.8 of
    their word 5-grams (MinHash), and none that is near a held-out one is trained on. What was left out is counted."""
    decontaminate: Decontamination | None = None
    """Absent: only whole records are compared."""
    select: Select | None = None
    """Absent: all of it is trained on."""
    invalid_rows: Literal["Fail", "Drop"] = "Fail"
    """`Drop`: leave out rows that are no records, and count them; more than 5 % of a stream's rows are refused all the
    same, as is a file that cannot be read to its end."""

    @model_validator(mode="after")
    def _check_reference(self) -> Data:
        select = self.select
        has_replay_sources = self.replay is not None and self.replay.sources is not None
        if select is not None and select.uses_reference and select.reference is None and not has_replay_sources:
            raise ValueError(
                f"data.select.method {select.method} asks what is new to the model: give text that it knows "
                "in data.select.reference, or data.replay.sources"
            )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Data:
        if len(self.train) == 1 and self.train[0].weight != 1:
            raise ValueError(
                f"data.train[0].weight is {self.train[0].weight:g}, and there is no other source to weigh it against: "
                "remove it, and say training.epochs"
            )
        return self


def check_formats(field: str, sources: Sequence[DataSource], reason: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError, with the reason, for a format of records that is not among the allowed ones."""
    for i, source in enumerate(sources):
        if source.format not in (*_FILE_FORMATS, *allowed):
            raise ValueError(f"{field}[{i}].format is {source.format}, but {reason}: write how its files are, or auto")
