"""The objective: packed documents do not see each other, and the loss is exact however it is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from runyard_trainer.contract.exits import UserError
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.objectives.base import Traits
from runyard_trainer.objectives.causal_lm import CausalLM, probe, project_cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES | {"num_key_value_heads": 2},
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gemma2": SIZES | {"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.01},
    "granite": SIZES | {"num_key_value_heads": 2, "logits_scaling": 3.0},
    "phi": SIZES,
}
TRAINED_ARCHITECTURES = ["llama", "qwen2", "gpt_neox", "gpt2"]


def build_model(model_type: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    tokens = {"vocab_size": 128, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(model_type, **{**CONFIGS.get(model_type, {}), **tokens, **fields})
    return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def pack(*documents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = [torch.cat([torch.tensor([IGNORED]), document[1:]]) for document in documents]
    positions = [torch.arange(len(document)) for document in documents]
    return torch.cat(documents)[None], torch.cat(positions)[None], torch.cat(labels)[None]


@pytest.mark.parametrize("model_type", TRAINED_ARCHITECTURES)
def test_documents_packed_into_a_sequence_lose_what_they_lose_alone(model_type: str) -> None:
    model = build_model(model_type)
    objective = CausalLM(model, probe(model)).eval()
    documents = [torch.randint(0, 128, (length,)) for length in (17, 1, 2, 12)]
    with torch.no_grad():
        alone = [float(objective(*pack(document))) for document in documents]
        packed = float(objective(*pack(*documents)))
    assert packed == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_loss_is_that_of_the_models_own_logits(model_type: str) -> None:
    model = build_model(model_type)
    objective = CausalLM(model, probe(model)).eval()
    input_ids, position_ids, labels = pack(*(torch.randint(0, 128, (length,)) for length in (9, 14)))
    with torch.no_grad():
        logits = model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits
        want = F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=IGNORED, reduction="sum")
        assert float(objective(input_ids, position_ids, labels)) == pytest.approx(float(want), rel=1e-5)


def test_logits_that_are_more_than_a_product_are_found_by_the_probe() -> None:
    plain = {model_type: probe(build_model(model_type)).plain_head for model_type in CONFIGS}
    assert plain == {model_type: model_type not in ("gemma2", "granite") for model_type in CONFIGS}


def test_dropout_is_found_by_the_probe_wherever_it_sits() -> None:
    assert probe(build_model("llama")).stochastic is False
    assert probe(build_model("llama", attention_dropout=0.1)).stochastic is True
    assert probe(build_model("gpt2", resid_pdrop=0.1)).stochastic is True


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}), ("mamba", {"hidden_size": 32, "num_hidden_layers": 2})],
)
def test_an_architecture_that_mixes_packed_documents_is_refused(model_type: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"model_type {model_type}: .*cannot be trained on packed text"):
        probe(build_model(model_type, **fields))


def test_the_probe_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = build_model("gpt2", resid_pdrop=0.1).eval()
    before = torch.random.get_rng_state()
    probe(model)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("rows_in_a_chunk", [1, 7, 64])
def test_loss_and_gradients_are_the_same_in_chunks(rows_in_a_chunk: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True) if has_bias else None
    targets = torch.randint(0, 50, (30,))
    targets[::4] = IGNORED
    leaves = [hidden, weight, *([bias] if bias is not None else [])]

    want = F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=IGNORED, reduction="sum")
    got = project_cross_entropy(hidden, weight, bias, targets, max_logits_bytes=4 * 50 * rows_in_a_chunk)

    torch.testing.assert_close(got, want)
    for got_gradient, want_gradient in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True
    ):
        torch.testing.assert_close(got_gradient, want_gradient, rtol=1e-5, atol=1e-5)


def test_the_loss_is_fp32_under_bf16() -> None:
    model = build_model("llama").bfloat16()
    input_ids, position_ids, labels = pack(torch.randint(0, 128, (30,)))
    loss = CausalLM(model, Traits(plain_head=True, stochastic=False))(input_ids, position_ids, labels)
    assert loss.dtype == torch.float32
