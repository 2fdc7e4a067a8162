"""Name the class of a text, or all classes that it belongs to.

    one class        cross-entropy over the classes, a mean over texts
    several          binary cross-entropy of each class, a mean over texts and classes

transformers' SequenceClassification models compute the loss so; this trains their head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch import Tensor

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives.base import (
    Fact,
    MicroBatch,
    Objective,
    ObjectiveModule,
    name_classes,
    pad,
    probe_padded,
)


class SequenceClassifier(ObjectiveModule):
    """The objective around a transformers model for sequence classification."""

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # it needs these
        """Return the summed cross-entropy, [1]; labels are int64 [texts], or [texts, classes] of 0 and 1."""
        return self._sum_loss(self.run_padded(**inputs).logits, labels)

    def predict(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as above
        """Return the same and the number of the best class, int64 [texts, 1], or which classes are likely, [texts,
        classes].
        """
        logits = self.run_padded(**inputs).logits
        best = logits.argmax(dim=-1, keepdim=True) if labels.ndim == 1 else (logits > 0).long()
        return self._sum_loss(logits, labels), best

    def _sum_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.float()
        if labels.ndim == 1:
            return torch.stack([F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")])
        weights = (labels != IGNORED).float()
        return torch.stack([F.binary_cross_entropy_with_logits(logits, labels * weights, weights, reduction="sum")])


def collate(pad_token_id: int, samples: Sequence[Sample], _: Sequence[int], length: int) -> MicroBatch:
    """Pad texts of different lengths."""
    inputs = pad(samples, {"input_ids": pad_token_id, "token_type_ids": 0}, length)
    count = int((inputs["labels"] != IGNORED).sum())
    return MicroBatch(inputs, (count,), int(inputs["attention_mask"].sum()))


def observe(sample: Sample, predicted: Tensor) -> Fact:
    """Return the text's own classes and the predicted ones, as lists."""
    return np.atleast_1d(sample["labels"]).tolist(), predicted.tolist()


def score(is_multi_label: bool, facts: Sequence[Fact]) -> dict[str, float]:
    """Return accuracy, F1 and Matthews' correlation, and the accuracy of naming the most frequent class alone.

    With several classes accuracy is that of the whole set, and there is no correlation.
    """
    wanted, found = (np.array(values) for values in zip(*facts, strict=True))
    metrics = {
        "accuracy": accuracy_score(wanted, found),
        "macroF1": f1_score(wanted, found, average="macro", zero_division=0),
        "weightedF1": f1_score(wanted, found, average="weighted", zero_division=0),
        "majorityAccuracy": max(Counter(map(tuple, wanted.tolist())).values()) / len(wanted),
    }
    if not is_multi_label:
        metrics["matthewsCorrelation"] = matthews_corrcoef(wanted.ravel(), found.ravel())
    return {name: float(value) for name, value in metrics.items()}


def configure(info: DatasetInfo, config: Any) -> None:
    """Name the classes, and the padding token: a decoder classifies at the last token that is not padding."""
    name_classes(config, info.labels)
    config.problem_type = "multi_label_classification" if info.is_multi_label else "single_label_classification"
    config.pad_token_id = info.pad_token_id


def build_objective(_: Recipe, info: DatasetInfo) -> Objective:
    """Build the objective for the classes of this data."""
    assert info.pad_token_id is not None
    return Objective(
        module=SequenceClassifier,
        probe=probe_padded,
        collate=partial(collate, info.pad_token_id),
        configure=partial(configure, info),
        new_weights=("classifier", "score", "pooler", "pre_classifier", "dense", "head"),
        best_by="macroF1",
        observe=observe,
        score=partial(score, info.is_multi_label),
    )
