"""Direct preference optimization (DPO): make better answers likelier than worse ones, as seen from the start model.

    loss of a pair = -ln sigmoid(margin)         margin = beta x ((c - c0) - (r - r0))

    c, r     log-probability of the chosen and of the rejected answer, summed over its tokens
    c0, r0   the same of the start model: a frozen copy, or the model without its adapter

Before the first step c = c0 and r = r0, bit for bit, and the loss is ln 2. There is no dropout, as in TRL: it would
make the model differ from the start model by chance alone. Held-out pairs are also measured by

    pairAccuracy   share of pairs whose margin is above 0
    margin         its mean
    kl             of the model from the start model: sum over the vocabulary of p (ln p - ln p0), the exact mean over
                   every token of the held-out answers, chosen and rejected

General text is measured by predicting its next tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.models.adapter import adapter_left_out
from runyard_trainer.objectives import causal_lm
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, Traits, pad
from runyard_trainer.objectives.causal_lm import MAX_LOGITS_BYTES, CausalLM, project_cross_entropy


class PreferenceModel(CausalLM):
    """The objective around a transformers causal language model."""

    def __init__(self, beta: float, model: Any, traits: Traits) -> None:
        super().__init__(model, traits)
        self.beta = beta
        disable_dropout(model)

    def train(self, mode: bool = True) -> PreferenceModel:
        """Set the mode of training, but never the start model's, which stays in evaluation."""
        super().train(mode)
        if self.reference is not None:
            self.reference.eval()
        return self

    def forward(self, input_ids: Tensor, labels: Tensor, position_ids: Tensor | None = None) -> Tensor:  # type: ignore[override]  # these are its inputs
        """Return the summed loss of all pairs, [1]; of packed text, which has positions, the loss of `CausalLM`.

        Args:
            input_ids: [pairs, 2, length], chosen first.
            labels: likewise, -100 where a token is not the answer's.
            position_ids: of packed text.
        """
        if position_ids is not None:
            return super().forward(input_ids, position_ids, labels)
        margins, _ = self._compare(input_ids, labels)
        return torch.stack([self._sum_loss(margins, labels)])

    def predict(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as above
        """Return the same and, of each pair, its margin, its answers' KL summed over their tokens, and their number."""
        margins, divergences = self._compare(input_ids, labels, wants_divergence=True)
        counts = (labels != IGNORED).sum(dim=(1, 2))
        facts = torch.stack([margins.double(), divergences.double().sum(dim=1), counts.double()], dim=1)
        return torch.stack([self._sum_loss(margins, labels)]), facts

    def _sum_loss(self, margins: Tensor, labels: Tensor) -> Tensor:
        is_pair = (labels != IGNORED).any(dim=2).any(dim=1)
        return (-F.logsigmoid(margins) * is_pair).sum()

    def _compare(self, input_ids: Tensor, labels: Tensor, wants_divergence: bool = False) -> tuple[Tensor, Tensor]:
        """Return margins [pairs], and the summed KL of each answer [pairs, 2], which is zero unless it is asked for."""
        ids = input_ids.flatten(0, 1)
        targets = F.pad(labels.flatten(0, 1)[:, 1:], (0, 1), value=IGNORED)
        is_predicted = targets != IGNORED
        rows, wanted = is_predicted.nonzero()[:, 0], targets[is_predicted]

        def sum_by_answer(values: Tensor) -> Tensor:
            sums = values.new_zeros(len(ids)).index_add(0, rows, values)
            return sums.view(-1, 2)

        with torch.no_grad(), self._start_model() as start:
            start_features, start_head = self._read(start, ids, is_predicted)
            start_losses = sum_by_answer(_cross_entropy(start_features, start_head, wanted))
        features, head = self._read(self.model, ids, is_predicted)
        losses = sum_by_answer(_cross_entropy(features, head, wanted))
        gains = start_losses - losses
        divergences = torch.zeros_like(gains)
        if wants_divergence:
            divergences = sum_by_answer(_divergence(features, head, start_features, start_head))
        return self.beta * (gains[:, 0] - gains[:, 1]), divergences

    @contextmanager
    def _start_model(self) -> Iterator[Any]:
        if self.reference is not None:
            yield self.reference
            return
        with adapter_left_out(self.model):
            yield self.model

    def _read(self, model: Any, ids: Tensor, is_predicted: Tensor) -> tuple[Tensor, nn.Linear | None]:
        """Return the hidden states before each predicted token and the head that reads them; or logits, and None.

        Padding stands behind the text, where nothing before it looks: no mask is needed.
        """
        if not self.traits.plain_head:
            return model(input_ids=ids, use_cache=False).logits[is_predicted], None
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[is_predicted], model.get_output_embeddings()


def _cross_entropy(features: Tensor, head: nn.Linear | None, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token, [tokens]."""
    if head is None:
        return F.cross_entropy(features.float(), targets, reduction="none")
    return project_cross_entropy(features, head.weight, head.bias, targets, reduction="none")


def _divergence(features: Tensor, head: nn.Linear | None, others: Tensor, other_head: nn.Linear | None) -> Tensor:
    """Return the KL of one model from another at each token, fp32 [tokens], without holding more logits than
    `causal_lm`.
    """
    width = features.shape[1] if head is None else head.weight.shape[0]
    chunk = max(1, MAX_LOGITS_BYTES // (4 * width))
    parts = [
        _divergence_of(head(some) if head else some, other_head(other) if other_head else other)
        for some, other in zip(torch.split(features, chunk), torch.split(others, chunk), strict=True)
    ]
    return torch.cat(parts)


def _divergence_of(logits: Tensor, others: Tensor) -> Tensor:
    log_p, log_q = (F.log_softmax(each.float(), dim=-1) for each in (logits, others))
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def disable_dropout(model: nn.Module) -> None:
    """Leave nothing out, in training too: in layers of dropout, and where attention does it by itself."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # a number, as it was


def probe(model: Any) -> Traits:
    """Probe as `causal_lm` does, without dropout."""
    disable_dropout(model)
    return causal_lm.probe(model)


def collate(pad_token_id: int, samples: Sequence[Sample], _: Sequence[int], length: int) -> MicroBatch:
    """Pad pairs of different lengths, as [pairs, 2, length]."""
    answers = [answer for sample in samples for answer in split_pair(sample)]
    padded = pad(answers, {"input_ids": pad_token_id, "labels": IGNORED}, length)
    inputs = {name: padded[name].view(len(samples), 2, -1) for name in ("input_ids", "labels")}
    num_pairs = int((inputs["labels"] != IGNORED).any(dim=2).any(dim=1).sum())
    return MicroBatch(inputs, (num_pairs,), int(padded["attention_mask"].sum()))


def split_pair(sample: Sample) -> list[Sample]:
    """Return prompt with chosen answer and prompt with rejected answer; the tokens of the answers are the labels."""
    end, *starts = sample["spans"]
    parts = sample["input_ids"][:end], sample["input_ids"][end:]
    return [
        {"input_ids": ids, "labels": np.where(np.arange(len(ids)) < start, IGNORED, ids)}
        for ids, start in zip(parts, starts, strict=True)
    ]


def observe(_: Sample, predicted: Tensor) -> Fact:
    """Return the margin, the KL summed over the answers' tokens, and the number of these."""
    return predicted.tolist()


def score(facts: Sequence[Fact]) -> dict[str, float]:
    """Return pairAccuracy, margin and kl, see the module."""
    margins, divergences, counts = np.array(facts).T
    return {
        "pairAccuracy": float((margins > 0).mean()),
        "margin": float(margins.mean()),
        "kl": float(divergences.sum() / max(counts.sum(), 1)),
    }


def build_objective(recipe: Recipe, info: DatasetInfo) -> Objective:
    """Build the objective with the recipe's beta."""
    assert info.pad_token_id is not None
    return Objective(
        module=partial(PreferenceModel, recipe.beta),
        probe=probe,
        collate=partial(collate, info.pad_token_id),
        needs_reference=True,
        observe=observe,
        score=score,
    )
