"""What a run will cost, against models that are really built."""

from __future__ import annotations

import pytest
import torch
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.run_length import Batch
from runyard_trainer.preparation.estimate import count_flops_per_token, count_matrix_weights, estimate_run
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from tests.ranks.tiny_models import CONFIGS

CAUSAL = ["llama", "qwen2", "gpt_neox", "gpt2"]


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_weights_of_the_layers_are_those_of_the_model(model_type: str) -> None:
    config = AutoConfig.for_model(model_type, vocab_size=120, pad_token_id=0, **CONFIGS[model_type])
    kind = AutoModelForCausalLM if model_type in CAUSAL else AutoModelForMaskedLM
    matrices = [
        weight.numel()
        for name, weight in kind.from_config(config).named_parameters()
        if weight.ndim == 2 and any(part in name for part in (".layers.", ".layer.", ".h."))
    ]
    assert count_matrix_weights(config) == sum(matrices)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_the_operations_are_those_that_torch_counts(model_type: str) -> None:
    length = 64
    config = AutoConfig.for_model(model_type, vocab_size=120, attn_implementation="eager", **CONFIGS[model_type])
    model = AutoModelForCausalLM.from_config(config)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros((1, length), dtype=torch.long), use_cache=False).logits.sum().backward()
    assert count_flops_per_token(config, 120, True, length) == pytest.approx(
        counter.get_total_flops() / length, rel=0.02
    )


def test_a_mixture_of_experts_is_not_guessed_at() -> None:
    recipe = Recipe.model_validate(
        {
            "model": {"uri": "file:///m"},
            "data": {"train": [{"uri": "file:///t"}]},
            "output": {"uri": "file:///o"},
            "training": {"steps": 10, "batchSequences": 4, "sequenceLength": 32},
        }
    )
    estimate = estimate_run(recipe, AutoConfig.for_model("mixtral"), 32_000, 10, Batch(4), 32.0)
    assert (estimate.steps, estimate.batch_sequences, estimate.tokens, estimate.flops) == (10, 4, 1280, None)
