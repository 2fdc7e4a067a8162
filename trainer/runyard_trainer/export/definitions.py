"""How metrics are called in the report and the model card, and how eval.json says that they were measured.

What belongs to one objective is in its traits (metrics) and in its kind of record (definition).
"""

from __future__ import annotations

from runyard_trainer.contract.objectives import OBJECTIVES, Metric

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

_METRICS: dict[str, Metric] = {
    "accuracyPerCharacter": Metric("accuracy by likelihood per character"),
    "accuracyPerByte": Metric("accuracy by likelihood per byte"),
    "missing": Metric("share without an answer", is_better_higher=False),
    "rouge1": Metric("ROUGE-1"),
    "rouge2": Metric("ROUGE-2"),
    "rougeL": Metric("ROUGE-L"),
} | {name: metric for traits in OBJECTIVES.values() for name, metric in traits.metrics.items()}
"""By name: what tasks and written answers alone are measured by, and what the objectives have."""


def find_metric(name: str) -> Metric:
    """Return how a metric is called; by its own name where nothing says otherwise."""
    return _METRICS.get(name, Metric(name))
