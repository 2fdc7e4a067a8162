"""How long and how to train, what to measure, and how often to commit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import CrossRule, Fraction, Model, at_most_one, exactly_one


class Schedule(Model):
    """The learning rate as a pure function of the step."""

    type: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After the warm-up: `cosine` or `linear` decay to the end, `constant`, or `wsd`: constant, and linear decay over
    the last fifth."""
    warmup: Fraction = 0.01
    """Share of all steps in which the rate climbs linearly to its peak: to the peak's s-th part of W in step s of W."""
    min_ratio: Fraction = 0.1
    """What the rate decays towards, as a share of the peak: the step after the last would have it."""


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

    cross_rules = (
        exactly_one("training", "epochs", "tokens", "steps"),
        at_most_one("training", "batch_tokens", "batch_sequences"),
        CrossRule(
            path="batchTokens",
            holds=lambda training: (
                training.batch_tokens is None or training.batch_tokens % training.sequence_length == 0
            ),
            cel="!has(self.batchTokens) || self.batchTokens % self.sequenceLength == 0",
            message="training.batchTokens is not a multiple of training.sequenceLength",
        ),
    )

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
    `batchTokens` too: as near 524,288 tokens as they come, or 32 to fine-tune; of few samples an eighth, so that an
    epoch has 8 steps."""
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


class Checkpoint(Model):
    """How often progress is committed, and what is kept."""

    every_steps: int = Field(default=500, ge=1)
    """Steps between commits: what a failure can cost at most."""
    keep_last: int = Field(default=2, ge=1, le=100)
    """The newest ones to keep."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """Keep, besides, each one whose step is a multiple of this."""
