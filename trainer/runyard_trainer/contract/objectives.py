"""What a model can be trained to do: one row of traits for each objective.

    name ─(OBJECTIVES)─> traits ─> data/records/<records>.py   what it learns from
                               └─> objectives/<name>.py        how it learns: `-` is `_` there

To add one: its name and its row here, and the two modules. Nothing else names an objective.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import Model

ObjectiveName = Literal[
    "causal-lm",
    "masked-lm",
    "masked-lm-nsp",
    "sft",
    "classification",
    "token-classification",
    "question-answering",
    "preference",
]

Mode = Literal["PreTraining", "ContinuedPreTraining", "FineTuning"]


@dataclass(frozen=True)
class Metric:
    """How a metric is called in the report."""

    title: str
    is_better_higher: bool = True


@dataclass(frozen=True)
class ObjectiveTraits:
    """All that is known of an objective without its code."""

    records: str
    """The module of `data/records` with the kind of record that it learns from."""
    auto_class: str
    """The class of transformers that opens its models."""
    architectures: str
    """The table of transformers' `modeling_auto` with the architectures that can be trained so."""
    lacks: str
    """What the other architectures cannot do, as a sentence goes on behind their name."""
    pipeline_tag: str
    """The task's name on model cards."""
    loss_unit: str
    nature: str
    """What such a model is, in a sentence for its card."""
    peft_task_type: str | None = None
    """peft's name for such models; it has none for encoders that are not fine-tuned."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """What is measured on held-out records besides the loss, by name."""

    is_language_model: bool = False
    """It learns from text without labels; the other objectives fine-tune."""
    is_masked: bool = False
    """It finds masked tokens, which encoders are trained with."""
    has_head: bool = False
    """Its model predicts something else than tokens."""
    predicts_next_token: bool = False
    """Its model predicts the next token, so it can be asked, and judged by what it writes."""
    can_extend_vocabulary: bool = False
    """Its model can get more tokens: it predicts them, and is measured on text."""
    compares_answers: bool = False
    """It learns which of two answers is better, with the `beta` of `preference`."""
    record_formats: tuple[str, ...] = ()
    """The formats that a source can say its records to have."""

    learning_rate: float | None = None
    """The default peak where all weights are trained; None: by the run's mode."""
    large_batch_learning_rate: float | None = None
    """The same in steps of 2^20 tokens or more; None: no other one."""
    adapter_learning_rate: float = 2e-4
    """The default peak where an adapter is trained."""
    adapter_dropout: float = 0.05
    """The default share of an adapter's inputs that a step leaves out."""

    @property
    def continues_text(self) -> bool:
        """Whether its model goes on from any text: it reads and writes documents, without prompts."""
        return self.is_language_model and self.predicts_next_token


# ---------------------------------------------------------------------------------------------------------- the table

_MASKED_ACCURACY = {"maskedAccuracy": Metric("share of the masked tokens found")}

OBJECTIVES: Mapping[ObjectiveName, ObjectiveTraits] = {
    "causal-lm": ObjectiveTraits(
        records="text",
        auto_class="AutoModelForCausalLM",
        architectures="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        lacks="cannot predict the next token",
        pipeline_tag="text-generation",
        loss_unit="nats per token",
        nature="It is a language model: it goes on from a text, and follows no instructions.",
        peft_task_type="CAUSAL_LM",
        is_language_model=True,
        predicts_next_token=True,
        can_extend_vocabulary=True,
    ),
    "masked-lm": ObjectiveTraits(
        records="masked_text",
        auto_class="AutoModelForMaskedLM",
        architectures="MODEL_FOR_MASKED_LM_MAPPING_NAMES",
        lacks="cannot find masked tokens",
        pipeline_tag="fill-mask",
        loss_unit="nats per masked token",
        nature="It is an encoder: it finds masked tokens, and is to be fine-tuned for a task.",
        metrics=_MASKED_ACCURACY,
        is_language_model=True,
        is_masked=True,
        learning_rate=1e-4,
        large_batch_learning_rate=5e-4,
    ),
    "masked-lm-nsp": ObjectiveTraits(
        records="sentences",
        auto_class="AutoModelForPreTraining",
        architectures="MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING_NAMES",
        lacks="cannot tell whether a text goes on",
        pipeline_tag="fill-mask",
        loss_unit="nats per masked token, plus nats per pair",
        nature="It is an encoder: it finds masked tokens, tells whether a text goes on, and is to be fine-tuned for a "
        "task.",
        metrics={**_MASKED_ACCURACY, "nspAccuracy": Metric("accuracy of telling whether a text goes on")},
        is_language_model=True,
        is_masked=True,
        learning_rate=1e-4,
        large_batch_learning_rate=5e-4,
    ),
    "sft": ObjectiveTraits(
        records="sft",
        auto_class="AutoModelForCausalLM",
        architectures="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        lacks="cannot predict the next token",
        pipeline_tag="text-generation",
        loss_unit="nats per answer token",
        nature="It answers: ask it as it was trained, with the tokenizer's chat template for a conversation.",
        peft_task_type="CAUSAL_LM",
        metrics={"tokenAccuracy": Metric("accuracy of each next token of an answer")},
        predicts_next_token=True,
        can_extend_vocabulary=True,
        record_formats=("prompt-completion", "messages", "alpaca", "conversations"),
    ),
    "classification": ObjectiveTraits(
        records="classification",
        auto_class="AutoModelForSequenceClassification",
        architectures="MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        lacks="has no head that classifies texts",
        pipeline_tag="text-classification",
        loss_unit="nats per text",
        nature="It names the class of a text; the classes are in config.json.",
        peft_task_type="SEQ_CLS",
        metrics={
            "accuracy": Metric("accuracy"),
            "macroF1": Metric("macro F1"),
            "weightedF1": Metric("weighted F1"),
            "majorityAccuracy": Metric("accuracy of always naming the most frequent class"),
            "matthewsCorrelation": Metric("Matthews correlation"),
        },
        has_head=True,
    ),
    "token-classification": ObjectiveTraits(
        records="token_classification",
        auto_class="AutoModelForTokenClassification",
        architectures="MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        lacks="has no head that tags words",
        pipeline_tag="token-classification",
        loss_unit="nats per word",
        nature="It tags the words of a text, each at its first token; the tags are in config.json.",
        peft_task_type="TOKEN_CLS",
        metrics={
            "entityF1": Metric("entity F1"),
            "entityPrecision": Metric("entity precision"),
            "entityRecall": Metric("entity recall"),
        },
        has_head=True,
    ),
    "question-answering": ObjectiveTraits(
        records="question_answering",
        auto_class="AutoModelForQuestionAnswering",
        architectures="MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
        lacks="has no head that finds answers",
        pipeline_tag="question-answering",
        loss_unit="nats per window",
        nature="It finds the answer to a question in a text: its first and its last token.",
        peft_task_type="QUESTION_ANS",
        metrics={"exactMatch": Metric("exact match"), "answerF1": Metric("answer F1")},
        has_head=True,
    ),
    "preference": ObjectiveTraits(
        records="preference",
        auto_class="AutoModelForCausalLM",
        architectures="MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        lacks="cannot write answers",
        pipeline_tag="text-generation",
        loss_unit="nats per pair",
        nature="It is a language model that was taught which answers are better.",
        peft_task_type="CAUSAL_LM",
        metrics={
            "pairAccuracy": Metric("pairs told right"),
            "margin": Metric("margin of the chosen answer, in nats times beta"),
            "kl": Metric("KL from the start model, nats per token of the answers", is_better_higher=False),
        },
        predicts_next_token=True,
        compares_answers=True,
        learning_rate=1e-6,
        adapter_learning_rate=1e-5,
        adapter_dropout=0.0,
    ),
}

PLAIN_TEXT: ObjectiveName = "causal-lm"
"""How text without labels is read and measured where the objective itself has none."""


def resolve_objective(objective: ObjectiveName, stream: str) -> ObjectiveName:
    """Return the objective that a stream is read and measured with: general text is plain where a model fine-tunes."""
    is_plain = stream == "general" and not OBJECTIVES[objective].is_language_model
    return PLAIN_TEXT if is_plain else objective


def _select(has: Callable[[ObjectiveTraits], bool]) -> frozenset[ObjectiveName]:
    return frozenset(name for name, traits in OBJECTIVES.items() if has(traits))


LANGUAGE_OBJECTIVES = _select(lambda traits: traits.is_language_model)
MASKED_OBJECTIVES = _select(lambda traits: traits.is_masked)
HEAD_OBJECTIVES = _select(lambda traits: traits.has_head)
NEXT_TOKEN_OBJECTIVES = _select(lambda traits: traits.predicts_next_token)
EXTENDABLE_OBJECTIVES = _select(lambda traits: traits.can_extend_vocabulary)


# ----------------------------------------------------------------------------------------------------------- settings


class Masking(Model):
    """Which tokens are to be found: 15 % of them, of which 80 % are masked, 10 % replaced and 10 % left as they are."""

    whole_word: bool = False
    """Choose words, with all tokens of each, rather than single tokens."""


class Preference(Model):
    """How better answers are told from worse ones: direct preference optimization (DPO)."""

    beta: float | None = Field(default=None, gt=0, le=100)
    """How dear it is to go away from the model as it came. Absent: 0.1."""
