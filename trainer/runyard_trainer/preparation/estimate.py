"""Estimate what a run will take, before it starts: steps, tokens and floating-point operations, from shapes alone.

    operations = tokens x (6 x weights that a token is multiplied by + 12 x layers x width x length, for attention)

Operations are those of a forward and a backward pass, counted as in scaling laws: looking up an embedding costs none.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from runyard_trainer.contract.objectives import LANGUAGE_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Estimate
from runyard_trainer.data.run_length import Batch

_PLAIN_MLPS = {
    "albert", "bert", "bloom", "codegen", "deberta", "deberta-v2", "distilbert", "electra", "falcon", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt", "opt", "phi", "roberta", "starcoder2", "xlm-roberta",
}  # fmt: skip
"""Architectures whose feed-forward layer has two matrices; in all others it has a third one, as a gate."""


def estimate_run(
    recipe: Recipe, config: PretrainedConfig, vocab_size: int, steps: int, batch: Batch, tokens_per_sample: float
) -> Estimate:
    """Estimate the tokens and floating-point operations of a run.

    Args:
        recipe: the run's.
        config: the model's.
        vocab_size: the tokenizer's.
        steps: the steps of the whole run.
        batch: the samples of a step.
        tokens_per_sample: the average length of a sample of `train`, in tokens.
    """
    tokens = round(steps * batch.sequences * tokens_per_sample)
    per_token = count_flops_per_token(config, vocab_size, recipe.objective in LANGUAGE_OBJECTIVES, tokens_per_sample)
    return Estimate(
        steps=steps,
        batch_sequences=batch.sequences,
        batch_reason=batch.reason,
        tokens=tokens,
        flops=None if per_token is None else f"{per_token * tokens:.2g}",
    )


def count_flops_per_token(
    config: PretrainedConfig, vocab_size: int, predicts_tokens: bool, length: float
) -> float | None:
    """Count operations of a forward and a backward pass per token; None if the model is no plain transformer."""
    shape: Any = config.get_text_config()
    weights = count_matrix_weights(shape)
    if weights is None:
        return None
    head = vocab_size * shape.hidden_size if predicts_tokens else 0
    return float(6 * (weights + head) + 12 * shape.num_hidden_layers * shape.hidden_size * length)


def count_matrix_weights(shape: Any) -> int | None:
    """Count the weights of all layers, without embeddings and head; None if the model is no plain transformer.

    A mixture of experts is none: a token is multiplied by a part of its weights only.
    """
    sizes = [getattr(shape, name, None) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")]
    has_experts = any(getattr(shape, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if has_experts or not all(isinstance(size, int) for size in sizes):
        return None
    width, layers, heads = (int(size) for size in sizes if size is not None)
    head_width = getattr(shape, "head_dim", None) or width // heads
    key_heads = getattr(shape, "num_key_value_heads", None) or heads
    inner = next(
        (
            size
            for name in ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim")
            if (size := getattr(shape, name, None))
        ),
        4 * width,
    )
    attention = 2 * width * head_width * (heads + key_heads)
    matrices = 2 if shape.model_type in _PLAIN_MLPS else 3
    return int(layers * (attention + matrices * width * inner))
