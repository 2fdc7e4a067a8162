"""Rows for new tokens: what they begin as, in every place where a token has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.models.embeddings import add_rows
from transformers import AutoConfig, AutoModelForCausalLM

NEW = [[3, 5], [1, 2, 4], [7, 7]]
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "tied": SIZES | {"model_type": "llama", "tie_word_embeddings": True},
    "a head of its own": SIZES | {"model_type": "llama", "tie_word_embeddings": False},
    "a head with a bias": SIZES | {"model_type": "phi", "tie_word_embeddings": False},
}


@pytest.mark.parametrize("rows", [20, 21, 40], ids=["no spare rows", "one spare row", "enough spare rows"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_new_row_is_the_mean_of_its_pieces_and_the_others_stay(config: dict[str, Any], rows: int) -> None:
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config, vocab_size=rows))
    if model.lm_head.bias is not None:
        torch.nn.init.normal_(model.lm_head.bias)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    add_rows(model, DatasetInfo(dtype="uint16", vocab_size=23, eos_token_id=0, streams={}, new_tokens=NEW))
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert model.config.vocab_size == max(rows, 23)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == config["tie_word_embeddings"]
    changed = ["model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"]
    for name, weight in model.state_dict().items():
        was = before[name]
        if name not in changed:
            assert torch.equal(weight, was), name
            continue
        assert weight.shape[0] == max(rows, 23)
        assert torch.equal(weight[:20], was[:20])
        assert torch.equal(weight[23:], was[23:])
        for row, pieces in zip(weight[20:23], NEW, strict=True):
            torch.testing.assert_close(row, sum(was[piece] for piece in pieces) / len(pieces))


def test_what_is_written_out_are_the_models_own_tokens() -> None:
    info = DatasetInfo(dtype="uint16", vocab_size=23, eos_token_id=0, streams={}, new_tokens=NEW)
    assert info.base_vocab_size == 20
    assert info.write_out([19, 20, 22, 0, 21]) == [19, 3, 5, 7, 7, 0, 1, 2, 4]
