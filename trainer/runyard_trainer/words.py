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
    definition: str | None = None
    """How held-out records are measured, for eval.json; None: as packed text."""


WORDS: dict[str, ObjectiveWords] = {
    "causal-lm": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per token",
        "It is a language model: it goes on from a text, and follows no instructions.",
    ),
    "classification": ObjectiveWords(
        "AutoModelForSequenceClassification",
        "text-classification",
        "nats per text",
        "It names the class of a text; the classes are in config.json.",
        "Each record is tokenized as the tokenizer lays out a text or a pair, special tokens and all, and cut to "
        "sequenceLength tokens. The loss is the mean cross-entropy over texts (of several classes: binary "
        "cross-entropy, over texts and classes), in nats. The metrics are scikit-learn's.",
    ),
    "token-classification": ObjectiveWords(
        "AutoModelForTokenClassification",
        "token-classification",
        "nats per word",
        "It tags the words of a text, each at its first token; the tags are in config.json.",
        "The words of each record are joined by single spaces, tokenized as a text, special tokens and all, and cut to "
        "sequenceLength tokens. A word's tag is predicted at the first token that ends within it; words behind the cut "
        "count as tagged O. The loss is the mean cross-entropy over the words that are left, in nats. Entities are "
        "counted by seqeval, in its default mode.",
    ),
    "question-answering": ObjectiveWords(
        "AutoModelForQuestionAnswering",
        "question-answering",
        "nats per window",
        "It finds the answer to a question in a text: its first and its last token.",
        "Question and context are tokenized as a pair, in windows of at most sequenceLength tokens that overlap by 128 "
        "tokens of the context (by half of their room where that is less). The loss of a window is the mean of the "
        "cross-entropies of the first and of the last token over the window's tokens, in nats. The answer is the span "
        "of at most 30 tokens of the context, over all windows, whose two logits have the highest sum. Exact match and "
        "F1 compare answers as SQuAD's script does, as shares of 1.",
    ),
}


@dataclass(frozen=True)
class MetricWords:
    """Of one metric."""

    title: str
    is_better_higher: bool = True


_METRICS = {
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
