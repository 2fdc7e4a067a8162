"""What the trainer reports to the operator: how a pod ended, and how far the run is.

    exit codes   what a pod's end means                                    `contract.exits`
    PodReport    a pod's termination message (at most 4 KiB)
    Progress     JSON that rank 0 serves on /progress while it trains

Both sides ignore fields they do not know: an older operator reads a newer trainer. Imports pydantic only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

PROGRESS_PORT = 8470
"""Where rank 0 serves /progress and /metrics, on the pod's own address."""

TERMINATION_LOG_PATH = "/dev/termination-log"
"""Where a pod leaves its `PodReport`."""


def _trim(text: str) -> str:
    """Keep the last 1,200 characters: with the rest it fits a termination message of 4 KiB."""
    return text[-1200:]


Tail = Annotated[str, AfterValidator(_trim)]


class Report(BaseModel):
    """Base of what comes out: camelCase outside, snake_case inside, values frozen, unknown fields passed over."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> str:
        """JSON with the fields that are set."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class Losses(Report):
    """The losses and metrics of a model on held-out data."""

    domain_loss: float | None = None
    """On the held-out part of `data.train`: nats per token, or per labelled text."""
    domain_bits_per_byte: float | None = None
    """The same per byte of text: comparable across tokenizers."""
    general_loss: float | None = None
    """Nats per token on `evaluation.general`."""
    general_bits_per_byte: float | None = None
    """The same per byte of text."""
    metrics: dict[str, float] | None = None
    """The objective's own on the held-out part of `data.train`: accuracy, macroF1 and the like."""
    tasks: dict[str, dict[str, float]] | None = None
    """The metrics of each of `evaluation.tasks`; in a `Result` just the one that is quoted."""


class Estimate(Report):
    """An estimate of what the run takes, replay included."""

    steps: int
    """Optimizer steps."""
    batch_sequences: int | None = None
    """Samples in each of them, over all ranks."""
    batch_reason: str | None = None
    """Why so many; absent where the recipe sets the number."""
    tokens: int
    """That go through the model."""
    flops: str | None = None
    """Floating-point operations of all forward and backward passes, such as `1.2e+18`; absent where the model is no
    plain transformer."""


class Judgement(Report):
    """A judge model's comparison of the exported model's answers with those of the model before training."""

    wins: int = 0
    """Prompts whose answer has become better, whichever answer was shown first."""
    ties: int = 0
    """Answers are as good, or which one is called better depends on the order they are shown in."""
    losses: int = 0
    """Prompts whose answer has become worse."""
    unjudged: int = 0
    """Prompts without a verdict."""
    win_rate: float | None = None
    """Wins and half of the ties, as a share of all that were judged."""
    low: float | None = None
    """Lower end of the 95 % confidence interval of `winRate`."""
    high: float | None = None
    """Its upper end."""
    message: str | None = None
    """Why there are prompts without a verdict."""


class Fertility(Report):
    """The fertility of the run's tokenizer: how finely it cuts held-out text."""

    tokens_per_word: float
    """A word is what stands between white space."""
    bytes_per_token: float
    """UTF-8 bytes of text."""
    base_tokens_per_word: float | None = None
    """The model's own `tokensPerWord`, where `model.extendVocabulary` has added to its tokenizer."""
    base_bytes_per_token: float | None = None
    """The model's own `bytesPerToken`, where it has been extended."""


class DataSummary(Report):
    """A summary of what prepare found."""

    manifest: str
    """URI of dataset.json."""
    documents: int
    """Training documents, the held-out ones left out."""
    tokens: int
    """Tokens in them, end-of-document tokens included."""
    validation_documents: int = 0
    """Held-out documents."""
    dropped: int = 0
    """Records of `data.train` that are not trained on: duplicates, empty or wrong ones, those held out by
    `data.validation.sources`, not chosen by `data.select` or with nothing to train on. dataset.json says which."""
    truncated: int = 0
    """Examples that the sequence length cuts."""
    domain_fertility: Fertility | None = None
    """How finely the tokenizer cuts the held-out part of `data.train`."""
    general_fertility: Fertility | None = None
    """How finely it cuts `evaluation.general`: the domain's words cost more where it knows fewer of them."""
    estimate: Estimate | None = None
    """What training on it will take."""


class Result(Report):
    """The result of a finished run."""

    uri: str
    """The model folder."""
    report: str
    """The report page."""
    digest: str
    """sha256 of the model's file list, `sha256:...`."""
    step: int | None = None
    """The step that the model is of: the last, or the best that was measured."""
    warning: str | None = None
    """What is not as the recipe asks."""
    before: Losses | None = None
    """Before the first step."""
    after: Losses | None = None
    """After the last."""
    judgement: Judgement | None = None
    """What `evaluation.judge` found."""
    tracking: str | None = None
    """The run's page on the server of `tracking.mlflow`."""


class ModelFolder(Report):
    """A model of another run that this one starts from."""

    run: str
    """The run's name."""
    uid: str
    """Its UID."""
    uri: str
    """The model folder."""
    digest: str | None = None
    """Of the folder, where its own weights are taken."""
    step: int | None = None
    """Of the checkpoint beside it whose weights are taken instead."""


class CommittedCheckpoint(Report):
    """The newest commit."""

    uri: str
    """The checkpoint's folder."""
    step: int
    """Optimizer steps it holds."""
    time: str
    """When it was committed, RFC 3339 UTC."""


Stage = Literal["starting", "writing", "evaluating", "training", "exporting", "finished"]
"""`writing`: text to replay."""


class Progress(Report):
    """The JSON that rank 0 serves on /progress."""

    stage: Stage
    """What the run is doing."""
    attempt: int
    """Which attempt this is."""
    step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Steps in the whole run."""
    tokens: int = 0
    """Tokens trained on so far, over all attempts."""
    tokens_per_second: float | None = None
    """Over the last steps, all ranks together."""
    loss: float | None = None
    """Training loss of the last step, nats per token."""
    eta_seconds: int | None = None
    """Until the last step."""
    last_heartbeat_time: str
    """When the last step ended, RFC 3339 UTC."""
    training_seconds: float = 0.0
    """Time that this attempt has spent on steps."""
    committed_seconds: float = 0.0
    """Of that, on steps that the newest commit has."""
    stalled_since: str | None = None
    """Since when no step has ended, RFC 3339 UTC, once that is longer than the watchdog's limit."""
    checkpoint: CommittedCheckpoint | None = None
    """The newest commit."""
    resolved: dict[str, str] = {}
    """Each value that was automatic, as text."""


class PodReport(Report):
    """A pod's termination message: why it ended and what there is to know."""

    reason: str
    """A `Reason`; text, as a newer trainer may have one that this operator does not know."""
    message: str = ""
    """One or two sentences for a person."""
    exit_code: int = 0
    """Of the first worker that failed."""
    rank: int | None = None
    """Which one that was."""
    log_tail: Tail = ""
    """Its last lines."""
    resolved: dict[str, str] | None = None
    """From prepare: each value that was automatic, as text."""
    data: DataSummary | None = None
    """From prepare."""
    result: Result | None = None
    """From rank 0 of a finished run."""
    progress: Progress | None = None
    """From rank 0: how far it was."""
