"""Predict the next token, in packed sequences whose documents do not see each other.

    input_ids     [sequences, length]   documents one after the other
    position_ids  [sequences, length]   restart at 0 with each document
    labels        [sequences, length]   input_ids, or -100 where a token is not to be predicted

transformers builds the block mask from the restarted positions, provided it gets no attention mask and no cache. Not
every architecture does, so `probe` runs a few tokens through the model before a run starts and refuses one that mixes
documents.

The logits of a micro-batch can be larger than the rest of its memory. Where they would be, hidden states are multiplied
by the output embeddings a chunk at a time, and each chunk's logits are computed again in the backward pass. Where an
architecture does more than that product (soft caps, scales), which `probe` finds out too, its own logits are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives.base import MicroBatch, Objective, ObjectiveModule, Traits, probe_dropout, stack

MAX_LOGITS_BYTES = 256 * 2**20
"""Logits, counted as fp32, that are kept for the backward pass rather than computed again."""


class CausalLM(ObjectiveModule):
    """The objective around a transformers causal language model."""

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]  # these are its inputs
        """Sum over predicted tokens of -ln p, in nats, fp32 [1]. Labels are aligned with input_ids and shifted here."""
        targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED).flatten()
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if not self.traits.plain_head:
            return torch.stack([_cross_entropy(self.model(**inputs).logits.flatten(0, 1), targets)])
        hidden = self.model.base_model(**inputs).last_hidden_state.flatten(0, 1)
        head = self.model.get_output_embeddings()
        return torch.stack([project_cross_entropy(hidden, head.weight, getattr(head, "bias", None), targets)])


def project_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    reduction: Literal["sum", "none"] = "sum",
) -> Tensor:
    """Return the cross-entropy of `hidden @ weight.T + bias`, without ever holding more logits than asked.

    Args:
        hidden: [tokens, width].
        weight: [vocabulary, width].
        bias: [vocabulary] or None.
        targets: int64 [tokens], -100 where there is none.
        max_logits_bytes: how large the fp32 logits of a chunk may be.
        reduction: summed, or by token, [tokens].
    """
    chunk = max(1, max_logits_bytes // (4 * weight.shape[0]))
    if hidden.shape[0] <= chunk:
        return _project(hidden, targets, weight, bias, reduction)
    losses = [
        checkpoint(_project, *some, weight, bias, reduction, use_reentrant=False, preserve_rng_state=False)
        for some in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    ]
    return torch.stack(losses).sum() if reduction == "sum" else torch.cat(losses)


def _project(hidden: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, reduction: str) -> Tensor:
    return _cross_entropy(F.linear(hidden, weight, bias), targets, reduction)


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "sum") -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction=reduction)


# ---------------------------------------------------------------------------------------------------------------- probe


@torch.no_grad()
def probe(model: Any) -> Traits:
    """Learn from a few tokens what no configuration says. Leaves the model as it was.

    Raises:
        UserError: where the architecture cannot keep packed documents apart.
    """
    name = model.config.model_type
    was_training = model.training
    tokens = torch.arange(11) * 7919 % model.config.vocab_size
    ids, positions = tokens[None], torch.cat([torch.arange(6), torch.arange(5)])[None]
    try:
        model.eval()
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        alone = [
            model(input_ids=some_ids, position_ids=torch.arange(some_ids.shape[1])[None], use_cache=False).logits
            for some_ids in (ids[:, :6], ids[:, 6:])
        ]
        if not _is_same(packed, torch.cat(alone, dim=1)):
            raise UserError(
                f"model_type {name}: a document packed behind another one gets other predictions than alone, so this "
                "architecture cannot be trained on packed text. Use one that keeps documents apart by their position "
                "ids (llama, qwen2, gpt_neox, gpt2, ...)",
                ExitCode.SPEC_ERROR,
            )
        plain_head = _is_same(packed, _plain_logits(model, ids, positions))
        inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False, "return_dict": False}
        return Traits(stochastic=probe_dropout(model, **inputs), plain_head=plain_head)
    except TypeError as error:
        raise UserError(f"model_type {name} does not take packed text (input_ids, position_ids): {error}") from error
    finally:
        model.train(was_training)


def _plain_logits(model: Any, ids: Tensor, positions: Tensor) -> Tensor | None:
    """Return what `CausalLM` computes in place of the model's logits; None where that is no product with an embedding
    matrix.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or model.base_model is model:
        return None
    hidden = model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    return F.linear(hidden, head.weight, head.bias)


def _is_same(want: Tensor, got: Tensor | None) -> bool:
    return got is not None and want.shape == got.shape and bool((want - got).abs().max() <= 1e-4 * want.abs().max())


# ----------------------------------------------------------------------------------------------------------- objective


def collate(samples: Sequence[Sample], _seeds: Sequence[int], _min_length: int) -> MicroBatch:
    """Stack packed sequences, all of one length."""
    inputs = stack(samples)
    num_predicted = count_predicted(inputs["labels"])
    return MicroBatch(inputs, (num_predicted,), num_predicted)


def count_predicted(labels: Tensor) -> int:
    """Count the tokens that labels of shape [sequences, length] have the model predict, shifted as the loss does."""
    return int((labels[:, 1:] != IGNORED).sum())


def build_objective(_recipe: Recipe, _info: DatasetInfo) -> Objective:
    """Build the objective: predict the next token."""
    return Objective(module=CausalLM, probe=probe, collate=collate, measures_language=True)
