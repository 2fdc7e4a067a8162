"""How objectives and their metrics are spoken of in the report and the model card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveWords:
    """Of one objective."""

    auto_class: str
    """The class of transformers that opens the exported model."""
    pipeline_tag: str
    """The task's name on model cards."""
    loss_unit: str
    nature: str
    """What such a model is, in a sentence."""


WORDS: dict[str, ObjectiveWords] = {
    "causal-lm": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per token",
        "It is a language model: it goes on from a text, and follows no instructions.",
    ),
    "sft": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per answer token",
        "It answers: ask it as it was trained, with the tokenizer's chat template for a conversation.",
    ),
    "classification": ObjectiveWords(
        "AutoModelForSequenceClassification",
        "text-classification",
        "nats per text",
        "It names the class of a text; the classes are in config.json.",
    ),
    "token-classification": ObjectiveWords(
        "AutoModelForTokenClassification",
        "token-classification",
        "nats per word",
        "It tags the words of a text, each at its first token; the tags are in config.json.",
    ),
    "question-answering": ObjectiveWords(
        "AutoModelForQuestionAnswering",
        "question-answering",
        "nats per window",
        "It finds the answer to a question in a text: its first and its last token.",
    ),
}


@dataclass(frozen=True)
class MetricWords:
    """Of one metric."""

    title: str
    is_better_higher: bool = True


_METRICS = {
    "tokenAccuracy": MetricWords("accuracy of each next token of an answer"),
    "rouge1": MetricWords("ROUGE-1"),
    "rouge2": MetricWords("ROUGE-2"),
    "rougeL": MetricWords("ROUGE-L"),
    "accuracy": MetricWords("accuracy"),
    "macroF1": MetricWords("macro F1"),
    "weightedF1": MetricWords("weighted F1"),
    "matthewsCorrelation": MetricWords("Matthews correlation"),
    "majorityAccuracy": MetricWords("accuracy of always naming the most frequent class"),
    "entityF1": MetricWords("entity F1"),
    "entityPrecision": MetricWords("entity precision"),
    "entityRecall": MetricWords("entity recall"),
    "exactMatch": MetricWords("exact match"),
    "answerF1": MetricWords("answer F1"),
}


def words_of_metric(name: str) -> MetricWords:
    """Its own name serves where none was given."""
    return _METRICS.get(name, MetricWords(name))
