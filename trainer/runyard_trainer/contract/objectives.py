"""What a model can be trained to do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import Model

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
NEXT_TOKEN_OBJECTIVES = frozenset({"causal-lm", "sft", "preference"})
"""Those whose model predicts the next token, and so can be asked."""
EXTENDABLE_OBJECTIVES = frozenset({"causal-lm", "sft"})
"""Those whose model can be given more tokens: it predicts them, and is measured on text."""

Mode = Literal["PreTraining", "ContinuedPreTraining", "FineTuning"]


class Masking(Model):
    """Which tokens are to be found: 15 % of them, of which 80 % are masked, 10 % replaced and 10 % left as they are."""

    whole_word: bool = False
    """Choose words, with all tokens of each, rather than single tokens."""


class Preference(Model):
    """How better answers are told from worse ones: direct preference optimization (DPO)."""

    beta: float | None = Field(default=None, gt=0, le=100)
    """How dear it is to go away from the model as it came. Absent: 0.1."""
