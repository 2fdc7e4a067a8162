"""Persistent buffers: which those are, and that a pass through a model leaves them as they came."""

from __future__ import annotations

import pytest
import torch
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.models.buffers import buffers_kept, persistent_buffers
from runyard_trainer.models.config import check_model
from runyard_trainer.models.embeddings import add_rows
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM


class Measuring(nn.Module):
    """Measures its input: in place as batch norms do, and by another buffer in the place of the first as I-BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("largest", torch.zeros(1))
        self.register_buffer("computed", torch.zeros(1), persistent=False)
        self.register_buffer("unset", None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.largest = torch.maximum(self.largest, inputs.max())
        self.computed = inputs.max()
        normed: torch.Tensor = self.norm(inputs)
        return normed


def test_persistent_buffers_are_what_a_file_has_beside_the_weights() -> None:
    names = [path for path, *_ in persistent_buffers(Measuring())]
    assert names == ["largest", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


def test_what_a_pass_does_to_buffers_is_undone_once_its_gradients_are_there() -> None:
    model, inputs = Measuring(), torch.randn(8, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with buffers_kept(model):
        model(inputs).square().sum().backward()
        assert model.norm.num_batches_tracked == 1
        assert model.largest == inputs.max()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.weight.grad is not None


def test_a_model_that_would_measure_in_training_is_refused() -> None:
    scratch = {"config": {"model_type": "ibert", "quant_mode": True}, "tokenizer": {"train": {"vocabSize": 400}}}
    recipe = Recipe.model_validate(
        {
            "objective": "masked-lm",
            "model": {"scratch": scratch},
            "data": {"train": [{"uri": "file:///text"}]},
            "training": {"steps": 1},
            "output": {"uri": "file:///output"},
        }
    )
    with pytest.raises(
        UserError, match=r"model\.scratch\.config\.quant_mode true: ibert .* train it with quant_mode false"
    ):
        check_model(recipe)


def test_tokens_are_not_added_where_a_table_names_experts_for_each() -> None:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 20,
        "num_hash_layers": 1,
    }
    experts = {"n_routed_experts": 2, "moe_intermediate_size": 8, "num_experts_per_tok": 1}
    config = AutoConfig.for_model("deepseek_v4", **sizes, **experts)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    info = DatasetInfo(dtype="uint16", vocab_size=21, eos_token_id=0, streams={}, new_tokens=[[3, 5]])
    with pytest.raises(
        UserError, match=r"extendVocabulary: model_type deepseek_v4 names something for each token in its "
    ):
        add_rows(model, info)
