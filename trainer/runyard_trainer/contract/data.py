"""The text to learn from: sources and their columns, what is held out, replayed, left out and chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from runyard_trainer.contract.base import CrossRule, InputUri, Model, Tokens, at_most_one, exactly_one
from runyard_trainer.contract.objectives import OBJECTIVES

ColumnName = Annotated[str, Field(min_length=1, max_length=256), Tokens.BY_FILES]


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
    """The text to answer, for sft and preference."""
    completion: ColumnName = "completion"
    """The answer to `prompt`, for sft."""
    messages: ColumnName = "messages"
    """A conversation of messages with `role` and `content`, for sft."""
    conversations: ColumnName = "conversations"
    """A conversation of messages with `from` and `value`, for sft."""
    instruction: ColumnName = "instruction"
    """What the model is to do, for sft on Alpaca's records."""
    input: ColumnName = "input"
    """What the instruction is about, on Alpaca's records; may be absent or empty."""
    output: ColumnName = "output"
    """The answer to `instruction`, on Alpaca's records."""
    system: ColumnName = "system"
    """What the system says, beside the messages of sft and preference and on Alpaca's records; may be absent."""
    history: ColumnName = "history"
    """Earlier turns on Alpaca's records, as a list of pairs: what the user said, and the answer; may be absent."""
    tokens: ColumnName = "tokens"
    """The words of a text, as a list, for token-classification."""
    tags: ColumnName = "tags"
    """The tag of each word of `tokens`, as a list."""
    id: ColumnName = "id"
    """The name of a question, for question-answering; it may be absent."""
    context: ColumnName = "context"
    """The text that holds the answer, for question-answering."""
    question: ColumnName = "question"
    """The question, for question-answering."""
    answers: ColumnName = "answers"
    """The answers to `question`, as an object of two lists: `text`, and `answer_start`, where each begins in
    `context`."""
    sentences: ColumnName = "sentences"
    """The sentences of a document as a list, for masked-lm-nsp."""
    chosen: ColumnName = "chosen"
    """The better of two answers, for preference."""
    rejected: ColumnName = "rejected"
    """The worse of two answers, for preference."""


FileFormat = Literal["text", "jsonl", "json", "csv", "tsv", "parquet"]
RecordFormat = Literal["prompt-completion", "messages", "alpaca", "conversations"]


@dataclass(frozen=True)
class FormatTraits:
    """All that is known of a file format without its code."""

    reader: str
    """The module of `data/sources` that has `read_<format>`."""
    endings: tuple[str, ...] = ()
    """The endings of files that are read so without being asked; a file with no such ending is text."""
    is_seekable: bool = False
    """It is read from its end, and compressed within, so that a .gz or .zst of it is refused."""


FILE_FORMATS: Mapping[FileFormat, FormatTraits] = {
    "text": FormatTraits("lines"),
    "jsonl": FormatTraits("lines", (".jsonl", ".ndjson")),
    "json": FormatTraits("json_arrays", (".json",)),
    "csv": FormatTraits("tables", (".csv",)),
    "tsv": FormatTraits("tables", (".tsv",)),
    "parquet": FormatTraits("tables", (".parquet",), is_seekable=True),
}
"""To add a format: its name and its row here, its words in `DataSource.format`, and its reader."""

RECORD_FORMATS: dict[str, tuple[str, ...]] = {
    name: traits.record_formats for name, traits in OBJECTIVES.items() if traits.record_formats
}
"""By objective: the formats of its records that a source can be said to have."""
ALL_RECORD_FORMATS = tuple(sorted(name for names in RECORD_FORMATS.values() for name in names))


class DataSource(Model):
    """A file, or every file under a prefix, in order of name. `.gz` and `.zst` are decompressed."""

    uri: Annotated[InputUri, Tokens.BY_FILES]
    """An object, or a prefix ending in `/`."""
    format: Annotated[Literal["auto", FileFormat, RecordFormat], Tokens.BY_FILES] = "auto"
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

    weight: Annotated[float, Tokens.NOT] = Field(default=1.0, gt=0, le=100)
    """How often each of its samples is trained on in an epoch: 2 is twice, 0.5 half of them, the others in the next
    epoch. For mixing sources; of one source alone, say training.epochs."""


def has_format(sources: Sequence[DataSource] | None, formats: Sequence[str]) -> bool:
    """Tell whether a source is said to have one of these formats."""
    return any(source.format in formats for source in sources or ())


def no_records(model_path: str, name: str) -> CrossRule[Any]:
    """Return the rule that the sources in this field are text, not records."""
    return CrossRule(
        path=name,
        holds=lambda model: not has_format(getattr(model, name), ALL_RECORD_FORMATS),
        cel=f"!has(self.{name}) || !self.{name}.exists(source, source.format in {list(ALL_RECORD_FORMATS)})",
        message=f"{model_path}.{name} is read as text, which has no records: write how its files are, or auto",
    )


DEFAULT_VALIDATION_FRACTION = 0.02


class Validation(Model):
    """What of the domain is held out. At most one of `fraction` and `sources`."""

    cross_rules = (at_most_one("data.validation", "fraction", "sources"),)

    fraction: Annotated[float | None, Tokens.BY_USE] = Field(default=None, ge=0, le=0.5)
    """Share of the records of `data.train`, chosen by a hash of their text, that is never trained on. 0: none.
    Absent, and `sources` too: 0.02."""
    sources: Sources | None = None
    """Held-out data of its own; records of `data.train` with the same text are not trained on."""

    @property
    def held_out_fraction(self) -> float:
        """Return the share of `data.train`, default resolved."""
        if self.fraction is not None:
            return self.fraction
        return DEFAULT_VALIDATION_FRACTION if self.sources is None else 0.0


class Replay(Model):
    """Text of the kind that the model already knows, mixed in so that it forgets less."""

    cross_rules = (exactly_one("data.replay", "sources", "source"),)

    fraction: Annotated[float, Tokens.NOT] = Field(gt=0, lt=1)
    """Share of the sequences of every step (on average) that are replayed instead of trained from `data.train`."""
    sources: Sources | None = None
    """The text to replay. Exactly one of `sources` and `source`."""
    source: Annotated[Literal["self"] | None, Tokens.NOT] = None
    """`self`: text that the model itself writes before it is trained, for when its own is not at hand. For causal-lm.
    It costs a forward pass a token, and is kept below `replay/` of the output."""


class Decontamination(Model):
    """Leave out what is, in parts, the same as held-out data."""

    ngram: Annotated[int, Tokens.BY_VALUE] = Field(default=13, ge=5, le=100)
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


def _no_use(name: str, methods: tuple[str, ...], useless_for: str) -> CrossRule[Any]:
    """Return the rule that this field is given with these methods only."""
    field = to_camel(name)
    return CrossRule(
        path=field,
        holds=lambda select: select.method in methods or getattr(select, name) is None,
        cel=f"self.method in {list(methods)} || !has(self.{field})",
        message=f"data.select.{field} has no use for method {useless_for}: remove it",
    )


class Select(Model):
    """Train on a part of the domain's documents: those that are worth it, chosen when the data is prepared."""

    cross_rules = (
        CrossRule(
            path="method",
            holds=lambda select: select.method != "perplexity",
            cel="self.method != 'perplexity'",
            message=PERPLEXITY_REFUSAL,
        ),
        CrossRule(
            path="",
            holds=lambda select: not select.uses_target or select.target is not None,
            cel=f"!(self.method in {list(TARGET_METHODS)}) || has(self.target)",
            message="data.select.method similarity or combined needs data.select.target: give texts of the task",
        ),
        _no_use("target", TARGET_METHODS, useless_for="novelty-diversity"),
        _no_use("reference", REFERENCE_METHODS, useless_for="similarity"),
        _no_use("noise_clip", REFERENCE_METHODS, useless_for="similarity"),
        CrossRule(
            path="fraction",
            holds=lambda select: select.fraction + select.resolved_noise_clip <= 1,
            cel=f"!(self.method in {list(REFERENCE_METHODS)}) || "
            f"self.fraction + (has(self.noiseClip) ? self.noiseClip : {DEFAULT_NOISE_CLIP}) <= 1.0",
            message=f"data.select.fraction and noiseClip ({DEFAULT_NOISE_CLIP} where absent) are more than all "
            "documents together: lower one of them",
        ),
        no_records("data.select", "target"),
        no_records("data.select", "reference"),
    )

    method: Annotated[Literal["similarity", "novelty-diversity", "combined", "perplexity"], Tokens.BY_VALUE]
    """`similarity`: documents most like the text of a task (TF-IDF). `novelty-diversity`: those that are new to the
    model (perplexity of a small model of `reference`) and varied (entropy of their tokens), by the mean of both ranks;
    it needs no task. `combined`: by the mean of all three ranks. `perplexity`: refused, as it picks noise."""
    fraction: Annotated[float, Tokens.BY_VALUE] = Field(gt=0, lt=1)
    """Share of the documents of `data.train` to train on, of those that nothing else leaves out and that are not held
    out."""
    target: Sources | None = None
    """Text of the task, for similarity and combined: some hundred of its texts or questions will do. Take no held-out
    ones: what is chosen by them does too well on them."""
    reference: Sources | None = None
    """Text of the kind that the model knows already, for novelty-diversity and combined. Absent:
    `data.replay.sources`."""
    sampling: Annotated[Literal["hard", "soft"], Tokens.BY_VALUE] = "hard"
    """`hard`: the documents that rank highest. `soft`: as many, drawn by `training.seed` with their ranks as weights,
    none twice: less of the same."""
    noise_clip: Annotated[float | None, Tokens.BY_USE] = Field(default=None, ge=0, le=0.5)
    """Share of the documents to leave out first, for novelty-diversity and combined: those that surprise most (and, for
    combined, are least like the target). Absent: 0.1."""

    @property
    def uses_target(self) -> bool:
        """Tell whether documents are compared with text of a task."""
        return self.method in TARGET_METHODS

    @property
    def uses_reference(self) -> bool:
        """Tell whether documents are compared with text that the model knows."""
        return self.method in REFERENCE_METHODS

    @property
    def compared(self) -> dict[str, list[DataSource]]:
        """Return the texts to compare with, by field."""
        named = {"target": self.target, "reference": self.reference}
        return {name: sources for name, sources in named.items() if sources is not None}

    @property
    def resolved_noise_clip(self) -> float:
        """Return `noise_clip`, default resolved; 0 with a method that does not ask what is new."""
        if not self.uses_reference:
            return 0.0
        return DEFAULT_NOISE_CLIP if self.noise_clip is None else self.noise_clip


class Data(Model):
    """The text to learn from."""

    cross_rules = (
        CrossRule(
            path="select",
            holds=lambda data: (
                data.select is None
                or data.select.reference is not None
                or not data.select.uses_reference
                or (data.replay is not None and data.replay.sources is not None)
            ),
            cel="!has(self.select) || has(self.select.reference) || "
            f"!(self.select.method in {list(REFERENCE_METHODS)}) || has(self.replay) && has(self.replay.sources)",
            message="data.select.method novelty-diversity or combined asks what is new to the model: give text that it "
            "knows in data.select.reference, or data.replay.sources",
        ),
        CrossRule(
            path="train",
            holds=lambda data: len(data.train) != 1 or data.train[0].weight == 1,
            cel="self.train.size() != 1 || self.train[0].weight == 1.0",
            message="data.train[0].weight has no other source to weigh against: remove it, and say training.epochs",
        ),
    )

    train: Annotated[list[TrainSource], Field(min_length=1, max_length=64)]
    """The domain's text."""
    validation: Validation = Validation()
    """The held-out part of it."""
    replay: Replay | None = None
    """Earlier text to keep mixing in."""
    deduplicate: Annotated[Literal["none", "exact", "near"], Tokens.BY_VALUE] = "exact"
    """`exact`: of records that are the same, the first is kept. `near`: of those too whose texts share about 0.8 of
    their word 5-grams (MinHash), and none that is near a held-out one is trained on. What was left out is counted."""
    decontaminate: Decontamination | None = None
    """Absent: only whole records are compared."""
    select: Select | None = None
    """Absent: all of it is trained on."""
    invalid_rows: Annotated[Literal["Fail", "Drop"], Tokens.BY_VALUE] = "Fail"
    """`Drop`: leave out rows that are no records, and count them; more than 5 % of a stream's rows are refused all the
    same, as is a file that cannot be read to its end."""
