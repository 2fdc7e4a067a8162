"""What the operator asks of the trainer: the recipe of a run. What comes back is in `outcome`.

A `Recipe` says what to learn, from what, and where to leave it. It is the recipe half of a TrainingRun's spec (the
operator adds compute, recovery and suspend), and a file that a person can run alone:
`python -m runyard_trainer recipe.yaml`.

This module knows no Kubernetes and no torch: it imports pydantic only, so the operator's image stays small.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

RECIPE_PATH = "/etc/runyard/recipe.json"
"""Where a pod finds its recipe."""


class Model(BaseModel):
    """Base of everything here: camelCase outside, snake_case inside, unknown fields refused, values frozen."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def _check_exactly_one(model: BaseModel, path: str, *names: str) -> None:
    given = [to_camel(name) for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        *others, last = map(to_camel, names)
        wanted = f"{', '.join(others)} or {last}"
        found = f"found {' and '.join(given)}" if given else "found none"
        raise ValueError(f"{path} needs exactly one of {wanted}: {found}")


URI_PATTERN = r"^(s3|file)://.+$"
Uri = Annotated[str, Field(min_length=6, max_length=1024, pattern=URI_PATTERN)]
"""An s3://bucket/prefix (in a cluster) or file:///folder (alone). A trailing slash makes no difference."""

Fraction = Annotated[float, Field(ge=0, le=1)]

Objective = Literal[
    "causal-lm",
    "masked-lm",
    "masked-lm-nsp",
    "sft",
    "classification",
    "token-classification",
    "question-answering",
    "preference",
]
LANGUAGE_OBJECTIVES = frozenset({"causal-lm", "masked-lm", "masked-lm-nsp"})
"""Those that learn from unlabelled text; the others fine-tune."""
MASKED_OBJECTIVES = frozenset({"masked-lm", "masked-lm-nsp"})
"""Those that find words which were masked: what encoders are trained with."""
HEAD_OBJECTIVES = frozenset({"classification", "token-classification", "question-answering"})
"""Those whose model predicts something else than tokens."""

Mode = Literal["PreTraining", "ContinuedPreTraining", "FineTuning"]


# ---------------------------------------------------------------------------------------------------------------- model


class TokenizerTraining(Model):
    """A tokenizer learned from the training text."""

    type: Literal["bpe", "wordpiece"] = "bpe"
    """`bpe`: byte-level BPE, with RoBERTa's special tokens for the masked objectives. `wordpiece`: as BERT has it,
    cased; for the masked objectives alone, since text cannot be written back from it."""
    vocab_size: int = Field(default=32000, ge=300, le=1_000_000)
    """Size of the vocabulary, special tokens included. At least 300: 256 bytes and some merges."""


class TokenizerSource(Model):
    """Exactly one of a tokenizer to train and one that is there."""

    train: TokenizerTraining | None = None
    """Train one on `data.train`."""
    uri: Uri | None = None
    """A folder with tokenizer.json, as `save_pretrained` writes it."""

    @model_validator(mode="after")
    def _check_one_of(self) -> TokenizerSource:
        _check_exactly_one(self, "scratch.tokenizer", "train", "uri")
        return self


class ScratchModel(Model):
    """A model with random weights."""

    config: dict[str, Any]
    """A transformers configuration: `model_type` and its fields. `vocab_size` and the special token ids come from the
    tokenizer."""
    tokenizer: TokenizerSource
    """The tokenizer to train or to read."""


class SourceRun(Model):
    """What another run leaves; this one waits for it."""

    name: str = Field(min_length=1, max_length=63)
    """A TrainingRun of the same namespace."""
    checkpoint: str = Field(default="best", max_length=20, pattern=r"^(best|last|[0-9]+)$")
    """`best`: the model that it has exported. `last`, or a step: a checkpoint that it has kept."""


class ModelSource(Model):
    """Where the weights come from. Exactly one of `uri`, `run` and `scratch`."""

    uri: Uri | None = None
    """A Hugging Face model folder with safetensors weights and a tokenizer."""
    digest: str | None = Field(default=None, max_length=80, pattern=r"^sha256:[0-9a-f]{64}$")
    """Of the folder at `uri`, as lineage and status tell it: anything else found there is refused."""
    step: int | None = Field(default=None, ge=1)
    """Take the weights from the checkpoint of this step, which the run that left the folder at `uri` has kept."""
    run: SourceRun | None = None
    """Another TrainingRun of the namespace, once it has succeeded. Resolved to `uri` and `digest` or `step`."""
    scratch: ScratchModel | None = None
    """Pre-train from random weights."""

    @model_validator(mode="after")
    def _check_one_of(self) -> ModelSource:
        _check_exactly_one(self, "model", "uri", "run", "scratch")
        for name in ("digest", "step"):
            if getattr(self, name) is not None and self.uri is None:
                raise ValueError(f"model.{name} is of the folder at model.uri, which is absent: remove model.{name}")
        if self.digest is not None and self.step is not None:
            raise ValueError("model.digest is of the exported weights, and model.step takes others: keep one of them")
        return self


# --------------------------------------------------------------------------------------------------------------- method


ModuleName = Annotated[str, Field(min_length=1, max_length=256)]


class Method(Model):
    """Which weights are trained. All but `type` belong to adapters: two thin matrices beside each weight, which stays
    as it is.
    """

    type: Literal["full", "lora", "dora", "qlora"] = "full"
    """`full`: every weight. `lora`: an adapter. `dora`: one that learns how large each output's weights are by itself,
    too. `qlora`: lora beside weights of 4 bits, on CUDA GPUs with bitsandbytes in the image; not tested on GPUs yet."""
    rank: int | None = Field(default=None, ge=1, le=4096)
    """Width of the adapter. Absent: 16."""
    alpha: float | None = Field(default=None, gt=0, le=65536)
    """The adapter's product is scaled by alpha / rank. Absent: twice the rank."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Share of the adapter's inputs that a training step leaves out. Absent: 0.05, and 0 for preference, which is
    trained without dropout."""
    targets: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = None
    """Names of the layers that get an adapter, or how they end: q_proj. Absent: every linear layer but the output's."""
    merge: bool | None = None
    """Add the adapter to the weights and export the sum as model/; adapter/ is exported in any case. Absent: true."""

    @model_validator(mode="after")
    def _check_adapter(self) -> Method:
        given = [name for name in ADAPTER_FIELDS if getattr(self, name) is not None]
        if self.type == "full" and given:
            raise ValueError(
                f"method.{given[0]} belongs to an adapter, and method.type is full: remove it, or set method.type to "
                "lora or dora"
            )
        return self

    @property
    def is_adapter(self) -> bool:
        """Whether the model's own weights stay as they are."""
        return self.type != "full"

    @property
    def resolved_rank(self) -> int:
        """Default resolved."""
        return self.rank or 16

    @property
    def resolved_alpha(self) -> float:
        """Default resolved."""
        return self.alpha or 2.0 * self.resolved_rank

    @property
    def is_merged(self) -> bool:
        """Whether the exported model has the adapter in its weights; default resolved."""
        return self.merge is not False


ADAPTER_FIELDS = ("rank", "alpha", "dropout", "targets", "merge")
"""Of `Method`: those that mean nothing without an adapter."""


class Preference(Model):
    """How better answers are told from worse ones: direct preference optimization (DPO)."""

    beta: float | None = Field(default=None, gt=0, le=100)
    """How dear it is to go away from the model as it came. Absent: 0.1."""


# ----------------------------------------------------------------------------------------------------------------- data


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


_FILE_FORMATS = ("auto", "text", "jsonl", "csv", "parquet")

RECORD_FORMATS: dict[str, tuple[str, ...]] = {"sft": ("prompt-completion", "messages", "alpaca", "conversations")}
"""By objective: the formats of its records that a source can be said to have."""


class DataSource(Model):
    """A file, or every file under a prefix, in order of name. `.gz` and `.zst` are decompressed."""

    uri: Uri
    """An object, or a prefix ending in `/`."""
    format: Literal[
        "auto", "text", "jsonl", "csv", "parquet", "prompt-completion", "messages", "alpaca", "conversations"
    ] = "auto"
    """`text`: one document a file. `jsonl`: one JSON object a line. `csv`: a header, then a record a row. `parquet`: a
    record a row. `auto`: by the file's ending: .jsonl and .ndjson, .csv, .parquet, and text for any other. The others
    say what the records of sft are, where their fields do not; the file is as it ends."""
    columns: Columns = Columns()
    """The record's fields; a text file has none."""


Sources = Annotated[list[DataSource], Field(min_length=1, max_length=64)]


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
    sources: Sources
    """The text to replay."""


class Decontamination(Model):
    """Leave out what is, in parts, the same as held-out data."""

    ngram: int = Field(default=13, ge=5, le=100)
    """So many words in a row that a record shares with one of `data.validation` or `evaluation.general`, whatever their
    case and punctuation, keep it from being trained on or replayed."""


class Data(Model):
    """The text to learn from."""

    train: Sources
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
    invalid_rows: Literal["Fail", "Drop"] = "Fail"
    """`Drop`: leave out rows that are no records, and count them; more than 5 % of a stream's rows are refused all the
    same, as is a file that cannot be read to its end."""


def _check_formats(field: str, sources: list[DataSource], reason: str, allowed: tuple[str, ...]) -> None:
    for i, source in enumerate(sources):
        if source.format not in (*_FILE_FORMATS, *allowed):
            raise ValueError(f"{field}[{i}].format is {source.format}, but {reason}: write how its files are, or auto")


# ------------------------------------------------------------------------------------------------------------- training


class Masking(Model):
    """Which tokens are to be found: 15 % of them, of which 80 % are masked, 10 % replaced and 10 % left as they are."""

    whole_word: bool = False
    """Choose words, with all tokens of each, rather than single tokens."""


class Schedule(Model):
    """The learning rate as a pure function of the step."""

    type: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: `cosine` or `linear` decay to the end, `constant`, or `wsd`: constant, and linear decay over
    the last fifth."""
    warmup: Fraction = 0.01
    """Share of all steps in which the rate climbs linearly from 0 to its peak."""
    min_ratio: Fraction = 0.1
    """The last rate as a share of the peak."""


class Optimizer(Model):
    """AdamW."""

    weight_decay: float = Field(default=0.1, ge=0, le=10)
    """Decoupled weight decay, on matrices only (no norms, no biases)."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""


class EarlyStopping(Model):
    """End a run that gets no better on held-out data. Needs `evaluation.everySteps`."""

    patience: int = Field(default=3, ge=1, le=1000)
    """Measurements in a row that may be no better than the best before them."""
    min_delta: float = Field(default=0.0, ge=0)
    """What counts as better, in the objective's own measure: loss, macro F1..."""


class Training(Model):
    """How long and how to train. Exactly one of `epochs`, `tokens` and `steps`; at most one of `batchTokens` and
    `batchSequences`.
    """

    epochs: float | None = Field(default=None, gt=0, le=10_000)
    """Passes over `data.train`."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens to train on, replay included."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    sequence_length: int = Field(default=2048, ge=8, le=1_048_576)
    """Tokens in a packed sequence."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in a step, over all ranks: a multiple of `sequenceLength`."""
    batch_sequences: int | None = Field(default=None, ge=1)
    """Sequences in a step, over all ranks; of labelled data, records, but sft packs these into sequences. Absent, and
    `batchTokens` too: as near 524,288 tokens as they come, or 32 to fine-tune."""
    micro_batch: int | None = Field(default=None, ge=1, le=4096)
    """Sequences that a rank holds in memory at once. Absent: chosen when the run starts, and shown in status."""
    learning_rate: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate. Absent: 3e-4 from scratch, 1e-5 continued, 2e-5 to fine-tune, 1e-6 for preference; with an
    adapter 2e-4, and 1e-5 for preference; for the masked objectives 1e-4, or 5e-4 in large batches, of a million (2^20)
    tokens or more."""
    schedule: Schedule = Schedule()
    """How the learning rate moves."""
    optimizer: Optimizer = Optimizer()
    """AdamW's settings."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the computation; weights and optimizer stay fp32. `auto`: bf16 on a GPU that has it, else fp32."""
    activation_checkpointing: Literal["none", "full"] = "none"
    """`full`: recompute each layer in the backward pass, to save memory."""
    deterministic: bool = False
    """On CUDA: only algorithms that give the same bits each time, at a price. On CPU it is always so."""
    early_stopping: EarlyStopping | None = None
    """End early when the held-out data says so. Absent: all steps are made."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Of initial weights, data order and dropout."""

    @model_validator(mode="after")
    def _check(self) -> Training:
        _check_exactly_one(self, "training", "epochs", "tokens", "steps")
        if self.batch_tokens is not None and self.batch_sequences is not None:
            raise ValueError("training.batchTokens and training.batchSequences are both set: keep one of them")
        if self.batch_tokens is not None and self.batch_tokens % self.sequence_length:
            raise ValueError(
                f"training.batchTokens {self.batch_tokens} is not a multiple of "
                f"training.sequenceLength {self.sequence_length}"
            )
        return self


class Evaluation(Model):
    """Measured on the same held-out data before the first step and after the last."""

    before: bool = True
    """Measure the model before it is trained, too."""
    every_steps: int | None = Field(default=None, ge=1)
    """Measure besides every so many steps, and export the best model that was measured. Absent: export the last."""
    general: Annotated[list[DataSource], Field(max_length=64)] = []
    """Held-out text of the general kind: what the model forgets shows here."""
    max_general_loss_increase: float | None = Field(default=None, ge=0)
    """Nats per token that the loss on `general` may rise: a model that forgot more is exported only where all did."""
    on_violation: Literal["Warn", "Fail"] = "Warn"
    """Where all forgot more: `Warn` exports the one that forgot least and says so, `Fail` ends the run as failed."""


class Checkpoint(Model):
    """How often progress is committed, and what is kept."""

    every_steps: int = Field(default=500, ge=1)
    """Steps between commits: what a failure can cost at most."""
    keep_last: int = Field(default=2, ge=1, le=100)
    """The newest ones to keep."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """Keep, besides, each one whose step is a multiple of this."""


class Output(Model):
    """Where everything the run leaves lies: model/, checkpoints/, report.html, metrics.csv, eval.json, lineage.json."""

    uri: Uri
    """A prefix that this run alone writes to."""
    take_over: bool = False
    """Continue from what another run has left there."""


class Storage(Model):
    """How to reach S3. What is absent comes from the operator's settings."""

    endpoint: str | None = Field(default=None, max_length=1024, pattern=r"^https?://.+$")
    """URL of an S3-compatible server. Absent everywhere: AWS."""
    region: str | None = Field(default=None, min_length=1, max_length=64)
    """Region name."""
    addressing: Literal["path", "virtual"] | None = None
    """Whether the bucket is in the path or in the host name."""
    secret_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    fencing: Literal["conditional-writes", "none"] = "conditional-writes"
    """`none`: for a store without If-Match; two attempts that overlap can then overwrite each other."""


_LARGE_BATCH_TOKENS = 1 << 20
_DEFAULT_LEARNING_RATES: dict[Mode, float] = {"PreTraining": 3e-4, "ContinuedPreTraining": 1e-5, "FineTuning": 2e-5}
_ADAPTER_LEARNING_RATE = 2e-4
_PREFERENCE_LEARNING_RATES = {False: 1e-6, True: 1e-5}
"""By whether it is an adapter that learns."""


class Recipe(Model):
    """What to learn, from what, and where to leave it."""

    objective: Literal[
        "causal-lm",
        "masked-lm",
        "masked-lm-nsp",
        "sft",
        "classification",
        "token-classification",
        "question-answering",
        "preference",
    ] = "causal-lm"
    """What the model is trained to do. `causal-lm`: predict the next token. `masked-lm`: find masked tokens.
    `masked-lm-nsp`: that, and tell whether a text goes on as the next one does. `sft`: answer, learned from prompts
    and conversations. `classification`: name the class of a text, or its classes. `token-classification`: tag the words
    of a text. `question-answering`: find the answer in a text. `preference`: give better answers rather than worse
    ones."""
    model: ModelSource
    """Where the weights come from."""
    method: Method = Method()
    """Which weights are trained. Absent: every one."""
    preference: Preference = Preference()
    """Settings of objective preference."""
    data: Data
    """The text to learn from."""
    masking: Masking = Masking()
    """How tokens are masked, for masked-lm and masked-lm-nsp."""
    training: Training = Training(epochs=1)
    """How long and how to train. Absent: one epoch."""
    evaluation: Evaluation = Evaluation()
    """What is measured before and after."""
    checkpoint: Checkpoint = Checkpoint()
    """How often progress is committed."""
    output: Output
    """Where the result goes."""
    storage: Storage = Storage()
    """How to reach S3."""

    @model_validator(mode="after")
    def _check_record_formats(self) -> Recipe:
        own = f"objective {self.objective} reads no such records", RECORD_FORMATS.get(self.objective, ())
        replayed = self.data.replay.sources if self.data.replay is not None else []
        _check_formats("data.train", self.data.train, *own)
        _check_formats("data.replay.sources", replayed, *own)
        _check_formats("data.validation.sources", self.data.validation.sources or [], *own)
        _check_formats("evaluation.general", self.evaluation.general, "general text has no records", ())
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> Recipe:
        evaluation = self.evaluation
        if self.training.early_stopping is not None and evaluation.every_steps is None:
            raise ValueError("training.earlyStopping needs evaluation.everySteps: say how often to measure")
        if evaluation.max_general_loss_increase is not None and not (evaluation.general and evaluation.before):
            raise ValueError(
                "evaluation.maxGeneralLossIncrease compares the loss on evaluation.general with that before training: "
                "give evaluation.general, and leave evaluation.before true"
            )
        return self

    @model_validator(mode="after")
    def _check_masked(self) -> Recipe:
        if self.objective in MASKED_OBJECTIVES:
            return self
        if self.masking.whole_word:
            raise ValueError(
                "masking.wholeWord is for objectives masked-lm and masked-lm-nsp, but objective is "
                f"{self.objective}: leave it out"
            )
        training = self.model.scratch.tokenizer.train if self.model.scratch is not None else None
        if training is not None and training.type == "wordpiece":
            raise ValueError(
                "model.scratch.tokenizer.train.type wordpiece is for objectives masked-lm and masked-lm-nsp, but "
                f"objective is {self.objective}: write bpe"
            )
        return self

    @model_validator(mode="after")
    def _check_objective(self) -> Recipe:
        if self.model.scratch is not None and self.objective not in LANGUAGE_OBJECTIVES:
            raise ValueError(
                f"model.scratch begins with random weights, and objective {self.objective} fine-tunes a model: "
                "name one in model.uri or model.run"
            )
        if self.evaluation.general and self.objective in HEAD_OBJECTIVES:
            raise ValueError(
                "evaluation.general measures how tokens are predicted, which a model has no head for after objective "
                f"{self.objective}: remove evaluation.general"
            )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> Recipe:
        if self.method.is_adapter and self.model.scratch is not None:
            raise ValueError(
                f"method.type {self.method.type} adapts weights that have learned something, and model.scratch has "
                "none: set method.type to full, or model.uri"
            )
        if self.objective == "preference" and self.method.dropout:
            raise ValueError("method.dropout: preference is trained without dropout: remove method.dropout")
        if self.preference.beta is not None and self.objective != "preference":
            raise ValueError(
                f"preference.beta belongs to objective preference, and objective is {self.objective}: remove it"
            )
        return self

    @property
    def mode(self) -> Mode:
        """What this run is called: derived, never typed."""
        if self.objective not in LANGUAGE_OBJECTIVES:
            return "FineTuning"
        return "PreTraining" if self.model.scratch is not None else "ContinuedPreTraining"

    @property
    def learning_rate(self) -> float:
        """The peak learning rate, default resolved."""
        if self.training.learning_rate is not None:
            return self.training.learning_rate
        if self.objective in MASKED_OBJECTIVES and not self.method.is_adapter:
            is_large = self.sequences_per_step * self.training.sequence_length >= _LARGE_BATCH_TOKENS
            return 5e-4 if is_large else 1e-4
        if self.objective == "preference":
            return _PREFERENCE_LEARNING_RATES[self.method.is_adapter]
        return _ADAPTER_LEARNING_RATE if self.method.is_adapter else _DEFAULT_LEARNING_RATES[self.mode]

    @property
    def adapter_dropout(self) -> float:
        """What a step leaves out of an adapter's inputs, default resolved."""
        if self.method.dropout is not None:
            return self.method.dropout
        return 0.0 if self.objective == "preference" else 0.05

    @property
    def beta(self) -> float:
        """Of preference, default resolved."""
        return self.preference.beta or 0.1

    @property
    def sequences_per_step(self) -> int:
        """Samples in one optimizer step over all ranks, default resolved."""
        training = self.training
        if training.batch_sequences is not None:
            return training.batch_sequences
        if training.batch_tokens is None and self.mode == "FineTuning":
            return 32
        return max(1, (training.batch_tokens or 524_288) // training.sequence_length)

    def to_json(self) -> str:
        """Canonical JSON: what the ConfigMap holds and `digest` hashes."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=True)

    @property
    def digest(self) -> str:
        """First 10 hex digits of the sha256 of `to_json`: names the ConfigMap."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]
