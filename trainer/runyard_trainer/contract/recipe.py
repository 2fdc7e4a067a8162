"""The recipe of a run, and the defaults that follow from its parts together."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

from runyard_trainer.contract.base import CrossRule, Model
from runyard_trainer.contract.data import Data
from runyard_trainer.contract.evaluation import Evaluation
from runyard_trainer.contract.models import Method, ModelSource
from runyard_trainer.contract.objectives import (
    LANGUAGE_OBJECTIVES,
    OBJECTIVES,
    Masking,
    Mode,
    ObjectiveName,
    Preference,
)
from runyard_trainer.contract.rules import RECIPE_RULES
from runyard_trainer.contract.services import Output, Storage, Tracking
from runyard_trainer.contract.training import Checkpoint, Training

RECIPE_PATH = "/etc/runyard/recipe.json"
"""Where a pod finds its recipe."""

_LARGE_BATCH_TOKENS = 1 << 20
_DEFAULT_LEARNING_RATES: dict[Mode, float] = {"PreTraining": 3e-4, "ContinuedPreTraining": 1e-5, "FineTuning": 2e-5}


class Recipe(Model):
    """What to learn, from what, and where to leave it."""

    cross_rules: ClassVar[tuple[CrossRule[Any], ...]] = RECIPE_RULES

    objective: ObjectiveName = "causal-lm"
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
    tracking: Tracking = Tracking()
    """Where the run is followed besides."""

    @property
    def mode(self) -> Mode:
        """Return what the run is called, which follows from objective and model."""
        if self.objective not in LANGUAGE_OBJECTIVES:
            return "FineTuning"
        return "PreTraining" if self.model.scratch is not None else "ContinuedPreTraining"

    @property
    def learning_rate(self) -> float:
        """Return the peak learning rate, default resolved."""
        if self.training.learning_rate is not None:
            return self.training.learning_rate
        traits = OBJECTIVES[self.objective]
        if self.method.is_adapter:
            return traits.adapter_learning_rate
        is_large = self.sequences_per_step * self.training.sequence_length >= _LARGE_BATCH_TOKENS
        large = traits.large_batch_learning_rate if is_large else None
        return large or traits.learning_rate or _DEFAULT_LEARNING_RATES[self.mode]

    @property
    def adapter_dropout(self) -> float:
        """Return the share of an adapter's inputs that a step leaves out, default resolved."""
        if self.method.dropout is not None:
            return self.method.dropout
        return OBJECTIVES[self.objective].adapter_dropout

    @property
    def beta(self) -> float:
        """Return `preference.beta`, default resolved."""
        return self.preference.beta or 0.1

    @property
    def sequences_per_step(self) -> int:
        """Return the samples in one optimizer step over all ranks: as given, or the default, which `resolve_batch`
        cuts to the data.
        """
        training = self.training
        if training.batch_sequences is not None:
            return training.batch_sequences
        if training.batch_tokens is None and self.mode == "FineTuning":
            return 32
        return max(1, (training.batch_tokens or 524_288) // training.sequence_length)

    def to_json(self) -> str:
        """Return canonical JSON: what the ConfigMap holds and `digest` hashes."""
        return json.dumps(self.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=True)

    @property
    def digest(self) -> str:
        """Return the first 10 hex digits of the sha256 of `to_json`, which name the ConfigMap."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:10]
