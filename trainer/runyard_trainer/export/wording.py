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
    definition: str
    """How held-out records are measured, for eval.json."""


_PACKED_TEXT = (
    "Each document of `text` is tokenized without adding special tokens and gets one end-of-document token; the "
    "documents are laid one after the other and cut every sequenceLength tokens, the last window padded. Position ids "
    "restart at the start of each document and window (no attention mask, no cache), so that no token attends to or is "
    "predicted from another document. A loss is the mean of -ln p over the predicted tokens, in nats; bits per byte "
    "are loss x tokens / (ln 2 x bytes)."
)
_MASKED_TEXT = (
    "Each document of `text` is tokenized with the tokenizer's special tokens in windows of sequenceLength tokens, "
    "each a sample, padded with an attention mask. 15 % of the tokens are drawn for each sample from its number "
    "(numpy's PCG64 seeded with a blake2b of `0/-1/number`): the same ones each time. The loss is the mean of -ln p "
    "over them, in nats."
)

WORDS: dict[str, ObjectiveWords] = {
    "causal-lm": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per token",
        "It is a language model: it goes on from a text, and follows no instructions.",
        _PACKED_TEXT,
    ),
    "masked-lm": ObjectiveWords(
        "AutoModelForMaskedLM",
        "fill-mask",
        "nats per masked token",
        "It is an encoder: it finds masked tokens, and is to be fine-tuned for a task.",
        _MASKED_TEXT,
    ),
    "masked-lm-nsp": ObjectiveWords(
        "AutoModelForPreTraining",
        "fill-mask",
        "nats per masked token, plus nats per pair",
        "It is an encoder: it finds masked tokens, tells whether a text goes on, and is to be fine-tuned for a task.",
        _MASKED_TEXT.replace("in windows", "in pairs of texts")
        + " The mean of -ln p over the pairs, of whether the second text goes on from the first, is added.",
    ),
    "preference": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per pair",
        "It is a language model that was taught which answers are better.",
        "A prompt and its answer are laid out as for sft; the answer is all that stands behind the prompt, its end "
        "included, and no token reaches from one into the other. An answer's log-probability is the sum of ln p over "
        "its tokens; the margin of a pair is beta times how much more than in the start model that of the "
        "chosen answer exceeds that of the rejected one. The loss is the mean of -ln sigmoid(margin) over pairs, in "
        "nats; kl is the mean over the answers' tokens of the Kullback-Leibler divergence from the start model.",
    ),
    "sft": ObjectiveWords(
        "AutoModelForCausalLM",
        "text-generation",
        "nats per answer token",
        "It answers: ask it as it was trained, with the tokenizer's chat template for a conversation.",
        "A conversation is laid out by the tokenizer's chat template, a prompt and its completion as they stand, with "
        "the end-of-document token; no token reaches from a prompt into its answer. Each is cut to sequenceLength "
        "tokens, and they are packed so that none attends to another. The loss is the mean of -ln p over the tokens of "
        "the answers and those that end them, in nats. Exact match and ROUGE (rouge-score's F-measures, without "
        "stemming) compare the last answers of at most 64 records, spread evenly, with what the model writes greedily, "
        "up to 128 tokens or half a sequence.",
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


OWN_TOKENIZER_DEFINITION = (
    "Tokens were added to the model's own tokenizer. The model as it came was measured with its own: the same text in "
    "ownTrainedTokens tokens. Its losses are told per token of the exported model, as loss x ownTrainedTokens / "
    "trainedTokens: so they compare as bits per byte do."
)
JUDGE_DEFINITION = (
    "The model as it came and the exported model answered each prompt greedily. The judge compared the two answers "
    "twice, in both orders: one is better where it is called so both times, and else it is a tie; equal answers are a "
    "tie without asking. The win rate counts ties half; its interval is Wilson's at 95 %. Judges tend to prefer longer "
    "answers, and those of models like themselves."
)


@dataclass(frozen=True)
class MetricWords:
    """Of one metric."""

    title: str
    is_better_higher: bool = True


_METRICS = {
    "tokenAccuracy": MetricWords("accuracy of each next token of an answer"),
    "accuracyPerCharacter": MetricWords("accuracy by likelihood per character"),
    "accuracyPerByte": MetricWords("accuracy by likelihood per byte"),
    "missing": MetricWords("share without an answer", is_better_higher=False),
    "rouge1": MetricWords("ROUGE-1"),
    "rouge2": MetricWords("ROUGE-2"),
    "rougeL": MetricWords("ROUGE-L"),
    "accuracy": MetricWords("accuracy"),
    "macroF1": MetricWords("macro F1"),
    "weightedF1": MetricWords("weighted F1"),
    "matthewsCorrelation": MetricWords("Matthews correlation"),
    "maskedAccuracy": MetricWords("share of the masked tokens found"),
    "nspAccuracy": MetricWords("accuracy of telling whether a text goes on"),
    "pairAccuracy": MetricWords("pairs told right"),
    "margin": MetricWords("margin of the chosen answer, in nats times beta"),
    "kl": MetricWords("KL from the start model, nats per token of the answers", is_better_higher=False),
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
