"""Adapters: the loss against peft's own, what stays as it was, resuming, and exports that open without our package."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from runyard_trainer import train as train_module
from runyard_trainer.checkpoints.files import CheckpointFolder, VerifiedReader, read_manifest
from runyard_trainer.checkpoints.head import HeadState
from runyard_trainer.context import World
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.export.export import gather_weights
from runyard_trainer.models import quantized
from runyard_trainer.models.quantized import PackedLinear
from runyard_trainer.storage.open import open_store
from runyard_trainer.training import sharded_model as model_module
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from tests.ranks.attempts import check_interrupted, train_and_compare, train_rank
from tests.ranks.fine_tuning import build_recipe, prepare_run, read_steps, write_rows
from tests.ranks.outputs import open_prepared, read_losses, read_output
from tests.ranks.run_ranks import run_ranks
from tests.ranks.tiny_models import WORDS, save_model
from tests.ranks.transformers_reference import build_schedule, pad_classes

RANK = 4


def prepare_language(folder: Path, model_type: str = "llama", output: str = "output", **method: Any) -> Recipe:
    """Prepare a causal language model with an adapter, without dropout unless it is asked for."""
    if not (folder / "model").exists():
        chance = random.Random(5)
        save_model(folder / "model", model_type, AutoModelForCausalLM)
        write_rows(folder / "train.jsonl", ({"text": " ".join(chance.choices(WORDS, k=60))} for _ in range(120)))
    given = {"type": "lora", "rank": RANK, "dropout": 0.0} | method
    recipe = build_recipe(folder, "causal-lm", output, method=given)
    prepare_run(recipe)
    return recipe


def prepare_classes(folder: Path, model_type: str = "bert", **method: Any) -> Recipe:
    chance = random.Random(5)
    bases = {"bert": AutoModelForMaskedLM, "roberta": AutoModelForMaskedLM, "llama": AutoModelForCausalLM}
    save_model(folder / "model", model_type, bases[model_type])
    texts = [chance.choices(WORDS[:17], k=8) for _ in range(120)]
    rows = ({"text": " ".join(words), "label": "good" if "good" in words else "bad"} for words in texts)
    write_rows(folder / "train.jsonl", rows)
    recipe = build_recipe(folder, "classification", method={"type": "lora", "rank": RANK, "dropout": 0.0} | method)
    prepare_run(recipe)
    return recipe


# ------------------------------------------------------------------------------------------------- against peft's own


KINDS = [("llama", "lora"), ("llama", "dora"), ("gpt2", "lora"), ("gpt_neox", "dora")]


@pytest.mark.parametrize(("model_type", "method"), KINDS)
def test_20_steps_lose_what_peft_loses_to_1e_5_and_the_merged_model_is_base_and_adapter(
    tmp_path: Path, model_type: str, method: str
) -> None:
    recipe = prepare_language(tmp_path, model_type, type=method)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    batches = [batch | {"use_cache": False} for batch in stack_steps(recipe)]
    want = train_with_peft(recipe, model, batches, "CAUSAL_LM")
    losses = train_and_compare(recipe, want)
    assert losses[-1] < losses[0]
    check_merged(tmp_path, recipe)


def check_merged(folder: Path, recipe: Recipe) -> None:
    """Compare the exported model with the base and the exported adapter, both opened without our package."""
    merged = AutoModelForCausalLM.from_pretrained(folder / "output/model")
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, folder / "output/adapter")(ids).logits
        got = merged(ids).logits
    torch.testing.assert_close(got, adapted, rtol=0, atol=1e-5)
    assert (adapted - before).abs().max() > 1e-2
    assert not any("lora" in name for name in load_file(folder / "output/model/model.safetensors"))
    assert read_output(recipe, "eval.json")["after"]["domainLoss"] == pytest.approx(loss_on_held_out(recipe, merged))


def stack_steps(recipe: Recipe) -> list[dict[str, torch.Tensor]]:
    """Return every step's sequences, in the order of the run."""
    steps, _ = read_steps(recipe)
    return [{name: torch.stack([torch.from_numpy(each[name]) for each in step]) for name in step[0]} for step in steps]


def train_with_peft(
    recipe: Recipe, model: Any, batches: list[dict[str, Any]], task_type: str, **config: Any
) -> list[float]:
    """Return the loss of each step, each batch in one piece, by peft's and transformers' own parts."""
    torch.set_num_threads(1)
    training = recipe.training
    torch.manual_seed(training.seed)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            target_modules="all-linear",
            use_dora=recipe.method.type == "dora",
            task_type=task_type,
            **config,
        ),
    )
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    groups = [
        {"params": [each for each in trained if each.ndim >= 2], "weight_decay": training.optimizer.weight_decay},
        {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95))
    schedule = build_schedule(recipe, optimizer, len(batches))
    losses = []
    for batch in batches:
        loss = adapted(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, training.optimizer.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


# ---------------------------------------------------------------------------------------------------- what is trained


def keeping_weights(world: World, recipe: Recipe, path: Path) -> str:
    """Train, and keep every weight as it is at the end, frozen ones included."""
    export_run = train_module.export_run

    def export_and_keep(model: Any, *rest: Any) -> Any:
        weights = gather_weights(model)
        if world.rank == 0:
            torch.save(weights, path)
        return export_run(model, *rest)

    train_module.export_run = export_and_keep
    return train_rank(world, recipe)


def test_the_model_s_own_weights_keep_every_bit_and_checkpoints_do_without_them(tmp_path: Path) -> None:
    recipe = prepare_language(tmp_path)
    assert run_ranks(keeping_weights, 2, recipe, tmp_path / "kept.pt") == ["finished"] * 2
    kept = {name.replace(".base_layer", ""): weight for name, weight in torch.load(tmp_path / "kept.pt").items()}
    base = load_file(tmp_path / "model/model.safetensors")
    assert base.keys() <= kept.keys()
    assert all(torch.equal(kept[name], weight) for name, weight in base.items())
    assert any(bool(kept[name].any()) for name in kept if ".lora_B." in name)

    output = open_store(recipe.output.uri, recipe.storage)
    entry = HeadState.model_validate_json((output / "head.json").get().data).entries[0]
    manifest = read_manifest(output, entry)
    folder = CheckpointFolder((output / entry.manifest).parent, manifest, tmp_path / "checkpoint")
    saved = VerifiedReader(folder).read_metadata().state_dict_metadata
    prefix = "sharded.weights."
    weights = {name.removeprefix(prefix) for name in saved if name.startswith(prefix)}
    assert weights
    assert all(".lora_" in name for name in weights)


@pytest.mark.resume
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    method = {"type": "dora", "dropout": 0.2}
    whole = prepare_language(tmp_path, **method)
    assert run_ranks(train_rank, 2, whole) == ["finished"] * 2
    broken = prepare_language(tmp_path, output="broken", **method)
    weights = ("adapter/adapter_model.safetensors", "model/model.safetensors")
    check_interrupted(broken, whole, *weights, "adapter/adapter_config.json")


def rank_whose_first_is_best(world: World, recipe: Recipe) -> str:
    """Train, and take the first model that is measured for the best."""
    train_module.choose_best = lambda candidates, _: candidates[0]
    train_module.find_best_step = lambda candidates, _: candidates[0].step if candidates else None
    return train_rank(world, recipe)


def test_the_best_adapter_is_exported_where_it_is_not_the_last(tmp_path: Path) -> None:
    sections = prepare_language(tmp_path).model_dump(mode="json", by_alias=True, exclude_none=True)
    recipe = Recipe.model_validate(sections | {"evaluation": {"everySteps": 5}})
    assert run_ranks(rank_whose_first_is_best, 2, recipe) == ["finished"] * 2
    evaluated = read_output(recipe, "eval.json")
    first, *_, last = evaluated["measured"]
    assert (evaluated["exportedStep"], first["step"], last["step"]) == (5, 5, 20)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "output/model")
    assert loss_on_held_out(recipe, merged) == pytest.approx(first["domainLoss"])
    assert first["domainLoss"] != pytest.approx(last["domainLoss"], rel=1e-4)


# ------------------------------------------------------------------------------------------------------------- export


def loss_on_held_out(recipe: Recipe, model: Any) -> float:
    """Return the loss as eval.json defines it; a document is longer than a window here, so windows are cut by hand."""
    samples = kind_of(recipe, "validation").open_samples(open_prepared(recipe), "validation", recipe)
    total, count = 0.0, 0
    for number in range(len(samples)):
        sample = {name: torch.from_numpy(values)[None] for name, values in samples[number].items()}
        num_predicted = int((sample["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            total += float(model(**sample, use_cache=False).loss) * num_predicted
        count += num_predicted
    return total / count


def test_without_merging_the_adapter_is_the_result_and_its_card_says_how_to_open_it(tmp_path: Path) -> None:
    recipe = prepare_language(tmp_path, merge=False)
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    output = tmp_path / "output"
    assert not (output / "model").exists()
    with pytest.raises(UserError, match="it is an adapter without its model: name a merged model"):
        prepare_run(build_recipe(tmp_path, "causal-lm", "next", model={"uri": f"file://{output}/adapter"}))
    result = json.loads((output / "head.json").read_text())["result"]
    assert result["uri"] == f"file://{output}/adapter"
    card = (output / "adapter/README.md").read_text()
    assert "PeftModel.from_pretrained(base, folder)" in card
    assert str(recipe.model.uri) in card
    config = json.loads((output / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == recipe.model.uri
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    adapted = PeftModel.from_pretrained(base, output / "adapter").merge_and_unload()
    assert read_output(recipe, "eval.json")["after"]["domainLoss"] == pytest.approx(loss_on_held_out(recipe, adapted))


# ------------------------------------------------------------------------------------------------------ another head


HEADS: dict[str, dict[str, Any]] = {
    "bert": {"modules_to_save": ["bert.pooler", "classifier"], "exclude_modules": ["bert.pooler.dense"]},
    "roberta": {"modules_to_save": ["classifier"], "exclude_modules": ["classifier.dense", "classifier.out_proj"]},
    "llama": {"modules_to_save": ["score"]},
}
"""As peft is told of them."""


@pytest.mark.parametrize("model_type", HEADS)
def test_a_new_head_is_trained_whole_as_peft_does_and_goes_with_the_adapter(tmp_path: Path, model_type: str) -> None:
    recipe = prepare_classes(tmp_path, model_type)
    torch.manual_seed(recipe.training.seed)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=2, pad_token_id=0)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    batches = [pad_classes(step, tokenizer) for step in read_steps(recipe)[0]]
    want = train_with_peft(recipe, model, batches, "SEQ_CLS", **HEADS[model_type])
    train_and_compare(recipe, want)
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output/model")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", num_labels=2, pad_token_id=0)
    adapted = PeftModel.from_pretrained(base, tmp_path / "output/adapter")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "output/adapter")("the good cat sees", return_tensors="pt")
    if model_type != "bert":
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, rtol=0, atol=1e-5)
    assert "num_labels=2" in (tmp_path / "output/adapter/README.md").read_text()


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_proj", "query"], ["method.targets[1]", "'query'", "q_proj"]),
        (["lm_head"], ["method.targets[0]", "'lm_head'", "down_proj"]),
    ],
    ids=["no such layer", "the output"],
)
def test_a_target_that_cannot_have_an_adapter_is_refused(tmp_path: Path, targets: list[str], words: list[str]) -> None:
    recipe = prepare_language(tmp_path, targets=targets)
    with pytest.raises(UserError) as refused:
        train_rank(World(0, 1, 0, 1), recipe)
    for word in words:
        assert word in str(refused.value)


def test_only_the_layers_that_are_named_get_an_adapter(tmp_path: Path) -> None:
    recipe = prepare_language(tmp_path, targets=["q_proj", "v_proj"])
    assert run_ranks(train_rank, 1, recipe) == ["finished"]
    names = load_file(tmp_path / "output/adapter/adapter_model.safetensors").keys()
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "v_proj"}


# -------------------------------------------------------------------------------------------------- weights of 4 bits


def packed_rank(world: World, recipe: Recipe) -> str:
    """Train on CPUs, which is refused elsewhere: bitsandbytes computes there too, only slowly."""
    model_module.check_packable = lambda device: None
    return train_rank(world, recipe)


def test_beside_weights_of_4_bits_it_learns_and_exports_what_was_measured(tmp_path: Path) -> None:
    recipe = prepare_language(tmp_path, type="qlora")
    assert run_ranks(packed_rank, 2, recipe) == ["finished"] * 2
    losses = read_losses(recipe)
    assert losses[-1] < losses[0]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "output/model")
    assert read_output(recipe, "eval.json")["after"]["domainLoss"] == pytest.approx(loss_on_held_out(recipe, merged))
    assert "BitsAndBytesConfig(load_in_4bit=True" in (tmp_path / "output/adapter/README.md").read_text()


@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_a_packed_layer_computes_as_the_layer_does_but_for_what_4_bits_leave_out(kind: Any) -> None:
    torch.manual_seed(0)
    layer, inputs = kind(256, 512), torch.randn(8, layer_inputs(kind), requires_grad=True)
    packed = PackedLinear(layer)
    packed.pack(layer.weight.data)
    unpacked = packed.unpack()
    assert unpacked.shape == layer.weight.shape
    assert 0 < (unpacked - layer.weight).norm() < 0.15 * layer.weight.norm()
    layer.weight.data = unpacked
    (want,) = torch.autograd.grad(layer(inputs).square().sum(), inputs)
    (got,) = torch.autograd.grad(packed(inputs).square().sum(), inputs)
    torch.testing.assert_close(packed(inputs), layer(inputs))
    torch.testing.assert_close(got, want)


def layer_inputs(kind: Any) -> int:
    """Return how many inputs the layer has: a Conv1D names its outputs first."""
    return 512 if kind is Conv1D else 256


def test_on_a_machine_without_a_gpu_4_bits_are_refused(tmp_path: Path) -> None:
    recipe = prepare_language(tmp_path, type="qlora")
    with pytest.raises(UserError, match="needs a CUDA GPU, and this machine has none"):
        train_rank(World(0, 1, 0, 1), recipe)


def test_in_an_image_without_bitsandbytes_4_bits_are_refused_when_the_run_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bitsandbytes, which this image does not have.*runyard\[qlora\]"):
        prepare_language(tmp_path, type="qlora")
