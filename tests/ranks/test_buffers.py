"""Persistent buffers: the same on every rank, in what is measured and in what is exported as in the model's folder."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from runyard_trainer.context import RunContext, World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import open_dataset, read_resolved
from runyard_trainer.models.buffers import persistent_buffers, spread_buffers
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.storage.open import open_store
from runyard_trainer.training.sharded_model import load_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from tests.ranks.attempts import train_rank
from tests.ranks.chat_models import build_chat_tokenizer
from tests.ranks.fine_tuning import build_recipe, prepare_run, write_rows
from tests.ranks.run_ranks import end_ranks, run_ranks
from tests.ranks.tiny_models import WORDS, build_tokenizer

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16}
_ROUTERS = _SIZES | _EXPERTS | {"first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "num_key_value_heads": 4}
KINDS: dict[str, dict[str, Any]] = {
    "deepseek_v3": _ROUTERS
    | {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "glm4_moe": _ROUTERS,
    "dots1": _ROUTERS | {"head_dim": 8},
    "apertus": _SIZES | {"num_key_value_heads": 2},
    "gemma4_text": _SIZES
    | {"num_key_value_heads": 2, "head_dim": 8, "global_head_dim": 8, "vocab_size_per_layer_input": 500}
    | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    "ibert": _SIZES | {"type_vocab_size": 1, "max_position_embeddings": 130},
}
"""Whose classes have persistent buffers."""
LORA = {"type": "lora", "rank": 2, "dropout": 0.0, "targets": ["o_proj"]}


def save_with_buffers(folder: Path, model_type: str) -> dict[str, Tensor]:
    """Save a model in bf16 whose buffers are what no class begins with; return those."""
    is_decoder = model_type != "ibert"
    tokenizer = build_chat_tokenizer() if is_decoder else build_tokenizer(has_types=False)
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None} if is_decoder else {"pad_token_id": 0}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **KINDS[model_type], **tokens)
    torch.manual_seed(0)
    auto_class = AutoModelForCausalLM if is_decoder else AutoModelForMaskedLM
    model = auto_class.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    names = {name for name, *_ in persistent_buffers(model)}
    assert names, model_type
    assert names <= weights.keys()
    buffers = {name: _renew(weights[name]) for name in sorted(names)}
    halved = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(halved | buffers, path, metadata={"format": "pt"})
    return buffers


def _renew(buffer: Tensor) -> Tensor:
    return buffer + torch.linspace(0.25, 0.75, buffer.numel()).view(buffer.shape).to(buffer.dtype)


def prepare_kind(folder: Path, model_type: str, objective: str | None = None, **parts: Any) -> Recipe:
    """Prepare a run of two steps on a saved model."""
    chance = random.Random(5)
    kind = objective or ("masked-lm" if model_type == "ibert" else "causal-lm")
    texts = [" ".join(chance.choices(WORDS, k=20)) for _ in range(60)]
    rows: dict[str, Any] = {
        "classification": [{"text": text, "label": "good" if "good" in text else "bad"} for text in texts],
        "preference": [
            {"prompt": text, "chosen": f" {texts[place - 1]}", "rejected": " bad"} for place, text in enumerate(texts)
        ],
    }
    write_rows(folder / "train.jsonl", rows.get(kind, [{"text": text} for text in texts]))
    training = {"steps": 2, "learningRate": 1e-3, "batchSequences": 4, "microBatch": 1}
    recipe = build_recipe(folder, kind, training=training, checkpoint={"everySteps": 1}, **parts)
    prepare_run(recipe)
    return recipe


def read_buffers(recipe: Recipe, buffers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Read the exported model's buffers of such names."""
    weights = load_file(Path(recipe.output.uri.removeprefix("file://"), "model", "model.safetensors"))
    return {name: weights[name] for name in buffers}


def check_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, buffer in want.items():
        assert got[name].dtype == buffer.dtype, name
        assert torch.equal(got[name], buffer), name


def forget_result(recipe: Recipe) -> None:
    """Leave the run as if it had been interrupted before its export was finished."""
    head = Path(recipe.output.uri.removeprefix("file://"), "head.json")
    head.write_text(json.dumps(json.loads(head.read_text()) | {"result": None}))


def count_kept(world: World, recipe: Recipe, folder: Path) -> list[int]:
    """Count the buffers, all as in the folder, that one rank is about to train with, and to compare with."""
    context = dataclasses.replace(RunContext.from_environment({}, recipe), world=world)
    resolved = read_resolved(open_store(recipe.output.uri, recipe.storage))
    shards = context.scratch_dir / f"shards-{world.rank}"
    dataset = open_dataset(open_store(resolved.dataset, recipe.storage), shards, resolved.sha256, resolved.labels)
    objective = build_objective(recipe, dataset.info)
    module = load_model(recipe, objective, dataset.info, context, torch.device("cpu"))
    models = [module.model, *([module.reference] if module.reference is not None else [])]
    came = load_file(folder / "model.safetensors")
    held = [{path: owner.get_buffer(name) for path, owner, name in persistent_buffers(model)} for model in models]
    for buffers in held:
        check_same(buffers, {name: came[name] for name in buffers})
    return list(map(len, held))


RUNS = [*((kind, 2) for kind in KINDS), ("deepseek_v3", 1), ("ibert", 1)]


@pytest.mark.parametrize(("model_type", "size"), RUNS)
def test_buffers_are_exported_as_they_came_and_again_after_a_resume(tmp_path: Path, model_type: str, size: int) -> None:
    buffers = save_with_buffers(tmp_path / "model", model_type)
    recipe = prepare_kind(tmp_path, model_type)
    assert run_ranks(train_rank, size, recipe) == ["finished"] * size
    check_same(read_buffers(recipe, buffers), buffers)
    exported = (tmp_path / "output/model/model.safetensors").read_bytes()
    forget_result(recipe)
    assert run_ranks(train_rank, size, recipe) == ["finished"] * size
    assert (tmp_path / "output/model/model.safetensors").read_bytes() == exported


@pytest.mark.parametrize("model_type", KINDS)
def test_every_rank_begins_with_the_buffers_of_the_folder(tmp_path: Path, model_type: str) -> None:
    buffers = save_with_buffers(tmp_path / "model", model_type)
    recipe = prepare_kind(tmp_path, model_type)
    assert run_ranks(count_kept, 2, recipe, tmp_path / "model") == [[len(buffers)]] * 2


def test_the_model_that_preference_compares_with_has_them_too(tmp_path: Path) -> None:
    buffers = save_with_buffers(tmp_path / "model", "deepseek_v3")
    recipe = prepare_kind(tmp_path, "deepseek_v3", "preference")
    assert run_ranks(count_kept, 2, recipe, tmp_path / "model") == [[len(buffers)] * 2] * 2


@pytest.mark.parametrize(
    ("model_type", "objective", "parts"),
    [
        ("deepseek_v3", "causal-lm", {"method": LORA}),
        ("glm4_moe", "causal-lm", {"method": LORA | {"type": "dora"}}),
        ("dots1", "preference", {"method": LORA}),
        ("deepseek_v3", "classification", {"method": LORA}),
        ("ibert", "classification", {}),
        ("deepseek_v3", "causal-lm", {"model": {"extendVocabulary": {"tokens": 8}}}),
    ],
)
def test_every_method_and_head_exports_them_as_they_came(
    tmp_path: Path, model_type: str, objective: str, parts: dict[str, Any]
) -> None:
    buffers = save_with_buffers(tmp_path / "model", model_type)
    if "model" in parts:
        parts = {"model": {"uri": f"file://{tmp_path}/model"} | parts["model"]}
    recipe = prepare_kind(tmp_path, model_type, objective, **parts)
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    of_body = {name: buffer for name, buffer in buffers.items() if not name.startswith("lm_head")}
    check_same(read_buffers(recipe, of_body), of_body)


def test_an_adapter_that_is_not_merged_leaves_them_to_its_base(tmp_path: Path) -> None:
    save_with_buffers(tmp_path / "model", "deepseek_v3")
    recipe = prepare_kind(tmp_path, "deepseek_v3", method=LORA | {"merge": False})
    assert run_ranks(train_rank, 2, recipe) == ["finished"] * 2
    names = load_file(tmp_path / "output/adapter/adapter_model.safetensors")
    assert all(".lora_" in name for name in names)


def test_a_folder_that_lacks_a_buffer_is_refused(tmp_path: Path) -> None:
    name, *_ = save_with_buffers(tmp_path / "model", "deepseek_v3")
    path = tmp_path / "model/model.safetensors"
    save_file({key: weight for key, weight in load_file(path).items() if key != name}, path, {"format": "pt"})
    (ended,) = end_ranks(train_rank, 1, prepare_kind(tmp_path, "deepseek_v3"))
    assert f"lack 1 weights, {name} first: upload the whole model" in str(ended.error)


class Assorted(nn.Module):
    """Buffers of all types."""

    def __init__(self, number: int) -> None:
        super().__init__()
        kinds = (torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.uint8)
        for kind in kinds:
            self.register_buffer(f"of_{kind}".replace("torch.", ""), torch.full((2, 3), number).to(kind))
        self.register_buffer("scalar", torch.tensor(float(number)))
        self.register_buffer("truth", torch.tensor([number > 1]))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("nothing", None)
        self.register_buffer("computed", torch.tensor(number), persistent=False)


def spread_assorted(world: World) -> list[str]:
    model = Assorted(number=world.rank)
    if world.rank == 1:
        model.to("meta")
    values = Assorted(number=7)
    spread_buffers(model, values.state_dict() if world.rank == 0 else None, torch.device("cpu"))
    return [name for name, buffer in model.state_dict().items() if not torch.equal(buffer, values.get_buffer(name))]


def test_buffers_of_any_type_and_shape_reach_every_rank() -> None:
    assert run_ranks(spread_assorted, 2) == [[], []]
