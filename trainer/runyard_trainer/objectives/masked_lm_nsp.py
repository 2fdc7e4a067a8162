"""Find masked tokens, and tell whether the second text of a pair goes on from the first, as BERT was trained.

The loss is the mean over masked tokens plus the mean over pairs, as transformers' BertForPreTraining has it, whose two
heads this trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives import masked_lm
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule


class MaskedLMWithNextSentence(ObjectiveModule):
    """The objective around a transformers model with both heads."""

    def forward(self, labels: Tensor, next_sentence_label: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # it needs these
        """Return the summed loss of masked tokens and of pairs, in nats, fp32 [2]."""
        return self._sum_losses(self.run_padded(**inputs), labels, next_sentence_label)

    def predict(  # type: ignore[override]  # as above
        self, labels: Tensor, next_sentence_label: Tensor, **inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the same and, of each text, how many tokens were to be found, how many were, and whether the pair was
        told right: int64 [texts, 3].
        """
        output = self.run_padded(**inputs)
        is_told = output.seq_relationship_logits.argmax(dim=-1, keepdim=True) == next_sentence_label[:, None]
        counted = masked_lm.count_found(output.prediction_logits, labels)
        return self._sum_losses(output, labels, next_sentence_label), torch.cat([counted, is_told], dim=1)

    def _sum_losses(self, output: Any, labels: Tensor, next_sentence_label: Tensor) -> Tensor:
        pairs = F.cross_entropy(
            output.seq_relationship_logits.float(), next_sentence_label, ignore_index=IGNORED, reduction="sum"
        )
        return torch.stack([masked_lm.sum_masked_loss(output.prediction_logits, labels), pairs])


def collate(
    masker: masked_lm.Masker, pad_token_id: int, samples: Sequence[Sample], seeds: Sequence[int], length: int
) -> MicroBatch:
    """Mask and pad pairs of different lengths."""
    batch = masked_lm.collate(masker, pad_token_id, samples, seeds, length)
    num_pairs = int((batch.inputs["next_sentence_label"] != IGNORED).sum())
    return replace(batch, counts=(*batch.counts, num_pairs))


def score(facts: Sequence[Fact]) -> dict[str, float]:
    """Return the share of the masked tokens that were found, and of the pairs that were told right."""
    return {**masked_lm.score(facts), "nspAccuracy": float(np.array(facts)[:, 2].mean())}


def build_objective(recipe: Recipe, info: DatasetInfo) -> Objective:
    """Find masked tokens, and tell pairs. A model that has only learned to find them gets a new head for the pairs."""
    assert info.pad_token_id is not None
    return Objective(
        module=MaskedLMWithNextSentence,
        probe=masked_lm.probe,
        collate=partial(collate, masked_lm.build_masker(recipe, info), info.pad_token_id),
        num_terms=2,
        new_weights=("pooler", "seq_relationship"),
        observe=masked_lm.observe,
        score=score,
    )
