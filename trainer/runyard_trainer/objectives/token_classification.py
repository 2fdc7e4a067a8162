"""Tag the words of a text, each at its first token.

The loss is the cross-entropy over the tags, a mean over the words, as transformers' TokenClassification models compute
it; this trains their head. Entities are counted by seqeval. A word that the sequence length cuts off counts as tagged
O.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from seqeval.metrics import f1_score, precision_score, recall_score
from torch import Tensor

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.data.records.token_classification import NOWHERE, OUTSIDE
from runyard_trainer.objectives.base import (
    Fact,
    MicroBatch,
    Objective,
    ObjectiveModule,
    name_classes,
    pad,
    probe_padded,
)


class TokenClassifier(ObjectiveModule):
    """The objective around a transformers model for token classification."""

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # it needs these
        """Return the summed cross-entropy, [1]; labels are int64 [texts, tokens]."""
        return _sum_loss(self.run_padded(**inputs).logits, labels)

    def predict(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as above
        """Return the same and the number of each token's best tag, int64 [texts, tokens]."""
        logits = self.run_padded(**inputs).logits
        return _sum_loss(logits, labels), logits.argmax(dim=-1)


def _sum_loss(logits: Tensor, labels: Tensor) -> Tensor:
    flat = logits.float().flatten(0, 1)
    return torch.stack([F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum")])


def collate(pad_token_id: int, samples: Sequence[Sample], _: Sequence[int], length: int) -> MicroBatch:
    """Pad texts of different lengths."""
    fills = {"input_ids": pad_token_id, "token_type_ids": 0, "labels": IGNORED}
    inputs = pad([{name: sample[name] for name in fills} for sample in samples], fills, length)
    return MicroBatch(inputs, (int((inputs["labels"] != IGNORED).sum()),), int(inputs["attention_mask"].sum()))


def observe(outside: int, sample: Sample, predicted: Tensor) -> Fact:
    """Return the words' tags and the predicted ones, as numbers; `outside` is the number of O."""
    first_pieces = sample["first_pieces"]
    found = np.where(first_pieces == NOWHERE, outside, predicted.numpy()[first_pieces])
    return sample["tags"].tolist(), found.tolist()


def score(labels: Sequence[str], facts: Sequence[Fact]) -> dict[str, float]:
    """Return F1, precision and recall of whole entities: right in their first word, last word and kind."""
    wanted, found = ([[labels[number] for number in tags] for tags in side] for side in zip(*facts, strict=True))
    return {
        "entityF1": float(f1_score(wanted, found, zero_division=0)),
        "entityPrecision": float(precision_score(wanted, found, zero_division=0)),
        "entityRecall": float(recall_score(wanted, found, zero_division=0)),
    }


def configure(info: DatasetInfo, config: Any) -> None:
    """Name the tags."""
    name_classes(config, info.labels)


def build_objective(_: Recipe, info: DatasetInfo) -> Objective:
    """Build the objective for the tags of this data."""
    assert info.pad_token_id is not None
    return Objective(
        module=TokenClassifier,
        probe=probe_padded,
        collate=partial(collate, info.pad_token_id),
        configure=partial(configure, info),
        new_weights=("classifier", "score", "head"),
        observe=partial(observe, info.labels.index(OUTSIDE)),
        score=partial(score, info.labels),
    )
