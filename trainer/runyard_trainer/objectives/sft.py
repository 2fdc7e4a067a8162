"""Learn to answer: predict the next token of answers, and nowhere else.

Records are packed as documents are in `causal_lm`, without seeing each other. The loss is the same, over fewer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives.base import Fact, Objective
from runyard_trainer.objectives.causal_lm import MAX_LOGITS_BYTES, CausalLM, collate, probe


class AnsweringLM(CausalLM):
    """A causal language model that also returns where the right token is the likeliest."""

    def predict(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # these are its inputs
        """Return the same as forward and, of each token, 1 where the next one is the likeliest, 0 where another is,
        -100 where none is trained on.

        Returns:
            The summed loss, [1], and int64 [sequences, length].
        """
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if not self.traits.plain_head:
            parts = [_compare(self.model(**inputs).logits.flatten(0, 1), targets)]
        else:
            hidden = self.model.base_model(**inputs).last_hidden_state.flatten(0, 1)
            head = self.model.get_output_embeddings()
            chunk = max(1, MAX_LOGITS_BYTES // (4 * head.weight.shape[0]))
            parts = [
                _compare(F.linear(some, head.weight, getattr(head, "bias", None)), some_targets)
                for some, some_targets in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
            ]
        losses, found = zip(*parts, strict=True)
        return torch.stack(losses).sum(dim=0, keepdim=True), torch.cat(found).view(labels.shape)


def _compare(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    is_right = (logits.argmax(dim=-1) == targets).long()
    return loss, torch.where(targets == IGNORED, IGNORED, is_right)


def observe(_: Sample, predicted: Tensor) -> Fact:
    """Return how many tokens were right, and how many there are."""
    return int((predicted == 1).sum()), int((predicted != IGNORED).sum())


def score(facts: Sequence[Fact]) -> dict[str, float]:
    """Return the share of trained tokens that were the likeliest, each predicted from the true ones before it."""
    right, total = map(sum, zip(*facts, strict=True))
    return {"tokenAccuracy": right / total}


def configure(info: DatasetInfo, config: Any) -> None:
    """Add the tokens that end an answer to those that end what the exported model generates."""
    known = config.eos_token_id
    ends = list(known) if isinstance(known, list) else [] if known is None else [known]
    ends += [token for token in info.stop_token_ids if token not in ends]
    config.eos_token_id = ends[0] if len(ends) == 1 else ends


def build_objective(_recipe: Recipe, info: DatasetInfo) -> Objective:
    """Build the objective: answer."""
    return Objective(
        module=AnsweringLM,
        probe=probe,
        collate=collate,
        configure=partial(configure, info),
        observe=observe,
        score=score,
        writes_answers=True,
    )
