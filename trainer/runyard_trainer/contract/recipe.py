"""The recipe of a run: what its parts say together, and what follows from them."""

from __future__ import annotations

import hashlib
import json

from pydantic import model_validator

from runyard_trainer.contract.base import Model
from runyard_trainer.contract.data import RECORD_FORMATS, Data, check_formats
from runyard_trainer.contract.models import Method, ModelSource
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
    OBJECTIVES,
    Masking,
    Mode,
    ObjectiveName,
    Preference,
)
from runyard_trainer.contract.services import Output, Storage, Tracking
from runyard_trainer.contract.training import Checkpoint, Evaluation, Training

RECIPE_PATH = "/etc/runyard/recipe.json"
"""Where a pod finds its recipe."""

_LARGE_BATCH_TOKENS = 1 << 20
_DEFAULT_LEARNING_RATES: dict[Mode, float] = {"PreTraining": 3e-4, "ContinuedPreTraining": 1e-5, "FineTuning": 2e-5}


class Recipe(Model):
    """What to learn, from what, and where to leave it."""

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

    @model_validator(mode="after")
    def _check_record_formats(self) -> Recipe:
        own = f"objective {self.objective} reads no such records", RECORD_FORMATS.get(self.objective, ())
        replayed = (self.data.replay.sources or []) if self.data.replay is not None else []
        check_formats("data.train", self.data.train, *own)
        check_formats("data.replay.sources", replayed, *own)
        check_formats("data.validation.sources", self.data.validation.sources or [], *own)
        check_formats("evaluation.general", self.evaluation.general, "general text has no records", ())
        if self.data.select is not None:
            for name, sources in self.data.select.compared.items():
                check_formats(f"data.select.{name}", sources, "it is read as text, which has no records", ())
        return self

    @model_validator(mode="after")
    def _check_select(self) -> Recipe:
        if self.data.select is not None and self.objective not in LANGUAGE_OBJECTIVES:
            raise ValueError(
                f"data.select chooses among texts without labels, and those of objective {self.objective} have some: "
                "remove it"
            )
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
    def _check_tasks(self) -> Recipe:
        tasks = self.evaluation.tasks
        if tasks and self.objective not in NEXT_TOKEN_OBJECTIVES:
            raise ValueError(
                f"evaluation.tasks are asked of models that predict the next token, and objective is {self.objective}: "
                f"remove them, or choose one of {', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}"
            )
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError("evaluation.tasks[].name: two tasks have the same: name each differently")
        return self

    @model_validator(mode="after")
    def _check_judge(self) -> Recipe:
        if self.evaluation.judge is None:
            return self
        if self.objective not in NEXT_TOKEN_OBJECTIVES:
            raise ValueError(
                f"evaluation.judge compares what models write, and objective is {self.objective}: remove it, or choose "
                f"one of {', '.join(sorted(NEXT_TOKEN_OBJECTIVES))}"
            )
        if self.model.scratch is not None or not self.evaluation.before:
            raise ValueError(
                "evaluation.judge compares with the model as it came: give model.uri or model.run, and leave "
                "evaluation.before true"
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

    @model_validator(mode="after")
    def _check_self_replay(self) -> Recipe:
        if self.data.replay is None or self.data.replay.source is None:
            return self
        if self.objective != "causal-lm":
            raise ValueError(
                f"data.replay.source self is for objective causal-lm, and objective is {self.objective}: give "
                "data.replay.sources"
            )
        if self.model.scratch is not None:
            raise ValueError(
                "data.replay.source self replays what the model knows, and model.scratch knows nothing: remove "
                "data.replay, or give data.replay.sources"
            )
        return self

    @model_validator(mode="after")
    def _check_vocabulary(self) -> Recipe:
        if self.model.extend_vocabulary is None:
            return self
        if self.objective not in EXTENDABLE_OBJECTIVES:
            raise ValueError(
                f"model.extendVocabulary is for objectives {' and '.join(sorted(EXTENDABLE_OBJECTIVES))}, and "
                f"objective is {self.objective}: remove it"
            )
        if self.data.replay is not None and self.data.replay.source is not None:
            raise ValueError(
                "data.replay.source self replays what the model knows, and it has never seen the tokens of "
                "model.extendVocabulary: give data.replay.sources"
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
        traits = OBJECTIVES[self.objective]
        if self.method.is_adapter:
            return traits.adapter_learning_rate
        is_large = self.sequences_per_step * self.training.sequence_length >= _LARGE_BATCH_TOKENS
        large = traits.large_batch_learning_rate if is_large else None
        return large or traits.learning_rate or _DEFAULT_LEARNING_RATES[self.mode]

    @property
    def adapter_dropout(self) -> float:
        """What a step leaves out of an adapter's inputs, default resolved."""
        if self.method.dropout is not None:
            return self.method.dropout
        return OBJECTIVES[self.objective].adapter_dropout

    @property
    def beta(self) -> float:
        """Of preference, default resolved."""
        return self.preference.beta or 0.1

    @property
    def sequences_per_step(self) -> int:
        """Samples in one optimizer step over all ranks: as given, or as a default at most, which `resolve_batch` cuts
        to the data.
        """
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
