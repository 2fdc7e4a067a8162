"""Load the model of a recipe and shard it over all ranks.

    rank 0: the full model on CPU  ── random weights from the seed, or a folder of safetensors
      │  its configuration and traits, to every rank
      v
    all ranks: the same model without weights ── fully_shard ── each weight scattered from rank 0, one at a time;
               every rank has persistent buffers (`buffers`) whole

So a run starts from the same weights whatever its world's size, and no rank but 0 ever holds more than its shard. An
adapter is added to the full model and to those without weights alike; frozen weights are sharded too.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]  # it ships no types
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.training import Training
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.models.adapter import add_adapter, has_dropout
from runyard_trainer.models.buffers import buffers_kept, spread_buffers
from runyard_trainer.models.config import check_model, check_vocabulary, classes_of
from runyard_trainer.models.embeddings import add_rows
from runyard_trainer.models.folder import download_model
from runyard_trainer.models.generation import Generation, parse_generation, take_file
from runyard_trainer.models.quantized import check_packable, pack_weights, prepare_packing
from runyard_trainer.models.source_checkpoint import load_checkpoint_weights
from runyard_trainer.objectives.base import Objective, ObjectiveModule, Traits
from runyard_trainer.ranks.distributed import run_on_rank_0

if TYPE_CHECKING:
    from peft import PeftModel

Precision = Literal["bf16", "fp32"]

log = logging.getLogger(__name__)


class ShardedModule(ObjectiveModule, FSDPModule):
    """The type of an objective's module after `fully_shard`; for type checkers, never instantiated."""


def load_model(
    recipe: Recipe, objective: Objective, data: DatasetInfo, context: RunContext, device: torch.device
) -> ShardedModule:
    """Load the objective's module with its first weights, sharded over all ranks. All ranks call this together.

    Raises:
        UserError: the configuration or the folder cannot be trained as the recipe says.
    """
    full: list[PreTrainedModel] = []
    generation: Generation | None = None
    is_packed = recipe.method.type == "qlora"
    if is_packed:
        check_packable(device)

    def load_on_rank_0() -> tuple[dict[str, Any], Traits]:
        nonlocal generation
        model, generation = _build_full_model(recipe, objective, data, context)
        if recipe.method.is_adapter:
            add_adapter(model, recipe, objective.new_weights)
        full.append(model)
        with buffers_kept(model):
            traits = objective.probe(model)
        is_stochastic = traits.stochastic or (recipe.method.is_adapter and has_dropout(model))
        return model.config.to_dict(), replace(traits, stochastic=is_stochastic)

    config, traits = run_on_rank_0(load_on_rank_0, context.world)
    model = build_empty_model(AutoConfig.for_model(**config), objective, recipe)[0]
    if is_packed:
        prepare_packing(model)
    module = objective.module(model, traits)
    module.generation = generation
    if objective.needs_reference and not recipe.method.is_adapter:
        module.reference = build_empty_model(model.config, objective, recipe)[0].requires_grad_(False)
    shard_model(module, recipe.training, device, resolve_precision(recipe.training, device))
    weights = full[0].state_dict() if full else None
    for part in filter(None, (model, module.reference)):
        scatter_weights(part, weights, device)
    pack_weights(model, weights, device)
    return cast(ShardedModule, module)


def build_empty_model(
    config: PreTrainedConfig, objective: Objective, recipe: Recipe
) -> tuple[PreTrainedModel, PeftModel | None]:
    """Build the model that is trained on the meta device, and peft's wrapper around it where it has an adapter."""
    with init_empty_weights():
        model = _build_model(config, objective)
        adapted = None
        if recipe.method.is_adapter:
            adapted = add_adapter(model, recipe, objective.new_weights)
    model.tie_weights()
    return model, adapted


def resolve_precision(training: Training, device: torch.device) -> Precision:
    """Resolve `auto` for this device."""
    if training.precision != "auto":
        return training.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


# ----------------------------------------------------------------------------------------------------- the full model


def _build_full_model(
    recipe: Recipe, objective: Objective, data: DatasetInfo, context: RunContext
) -> tuple[PreTrainedModel, Generation | None]:
    config = check_model(recipe)
    check_vocabulary(config, data.base_vocab_size, recipe)
    if recipe.model.scratch is not None:
        return initialize_model(fit_to_tokenizer(config, data), objective, recipe.training.seed), None
    objective.configure(config)
    folder = context.scratch_dir / "source-model"
    try:
        download_model(recipe, folder)
        given = take_file(folder)
        model = read_model(folder, config, objective, recipe)
        if recipe.model.step is not None:
            load_checkpoint_weights(model, recipe, folder)
        add_rows(model, data)
        if given is None or not model.can_generate():
            return model, None
        return model, parse_generation(given, str(recipe.model.uri))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fit_to_tokenizer(config: PreTrainedConfig, data: DatasetInfo) -> PreTrainedConfig:
    """Set the tokenizer's vocabulary and special tokens in the configuration.

    A causal language model gets no padding token: it would be the end-of-document token, and the embedding of a padding
    token is never trained.
    """
    config.vocab_size = data.vocab_size
    if data.mask_token_id is None:
        config.bos_token_id = config.eos_token_id = data.eos_token_id
        config.pad_token_id = None
        return config
    config.pad_token_id = data.pad_token_id
    config.bos_token_id, config.eos_token_id = data.cls_token_id, data.sep_token_id
    for name in ("cls_token_id", "sep_token_id", "mask_token_id"):
        if hasattr(config, name):
            setattr(config, name, getattr(data, name))
    return config


def initialize_model(config: PreTrainedConfig, objective: Objective, seed: int) -> PreTrainedModel:
    """Draw random fp32 weights: a function of the seed."""
    objective.configure(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build_model(config, objective)


def _build_model(config: PreTrainedConfig, objective: Objective) -> PreTrainedModel:
    return cast(PreTrainedModel, objective.auto_class.from_config(config, dtype=torch.float32))


def read_model(folder: Path, config: PreTrainedConfig, objective: Objective, recipe: Recipe) -> PreTrainedModel:
    """Read weights from safetensors and run no code of the folder; draw the objective's own weights from the seed.

    Raises:
        UserError: DATA_ERROR where the folder has no whole model.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed)
            model, report = objective.auto_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=bool(objective.new_weights),
                key_mapping=_map_names(config, objective),
            )
            renew_head(model, folder, set(report["missing_keys"]), objective)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).replace(str(folder), "the folder")
        raise UserError(
            f"model.uri: {recipe.model.uri} cannot be opened for objective {recipe.objective}: {reason}",
            ExitCode.DATA_ERROR,
        ) from error
    misfits = sorted(name for name, *_ in report["mismatched_keys"] if not _is_new(name, objective))
    if misfits:
        raise UserError(
            f"model.uri: {len(misfits)} weights of {recipe.model.uri} have other sizes than its config.json says, "
            f"{misfits[0]} first: upload the whole model",
            ExitCode.DATA_ERROR,
        )
    missing = sorted(name for name in report["missing_keys"] if not _is_new(name, objective))
    if missing:
        raise UserError(
            f"model.uri: the safetensors files of {recipe.model.uri} lack {len(missing)} weights, {missing[0]} first: "
            "upload the whole model",
            ExitCode.DATA_ERROR,
        )
    return cast(PreTrainedModel, model)


def _is_new(name: str, objective: Objective) -> bool:
    """Return whether a weight is one of the objective's own, at the top of the model or of its body."""
    return any(part in objective.new_weights for part in name.split(".")[:2])


def _map_names(config: PreTrainedConfig, objective: Objective) -> dict[str, str] | None:
    """Map the names of a model's body to those of the objective's class, where its family has another prefix.

    Llama's body is `model.`, but `transformer.` in its class for question answering.
    """
    model_class = objective.auto_class._model_mapping[type(config)]
    family = next(base for base in model_class.__mro__[1:] if issubclass(base, PreTrainedModel))
    theirs, ours = family.base_model_prefix, model_class.base_model_prefix
    return None if theirs == ours else {rf"^{theirs}\.": f"{ours}."}


def renew_head(model: PreTrainedModel, folder: Path, missing: set[str], objective: Objective) -> None:
    """Draw the head's last weights anew where those of the folder are for other classes."""
    known = classes_of(AutoConfig.from_pretrained(folder, local_files_only=True))
    wanted = classes_of(model.config)
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == len(wanted)
        and _is_new(name, objective)
        and f"{name}.weight" not in missing
    ]
    if known == wanted or not heads:
        return
    log.info("the model's head is for %s: for %s it is drawn anew", _enumerate(known), _enumerate(wanted))
    with torch.no_grad():
        for head in heads:
            head.weight.normal_(std=getattr(model.config, "initializer_range", 0.02))
            if head.bias is not None:
                head.bias.zero_()


def _enumerate(classes: list[str]) -> str:
    return ", ".join(classes[:8]) + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")


# ---------------------------------------------------------------------------------------------------------- sharding


def shard_model(
    module: ObjectiveModule, training: Training, device: torch.device, precision: Precision
) -> ShardedModule:
    """Shard parameters, gradients and optimizer state over all ranks, layer by layer; in place.

    Weights stay fp32; with bf16 the layers compute in bf16 and gradients are summed in fp32.
    """
    if training.activation_checkpointing == "full":
        _checkpoint_activations(module.model)
    mesh = _world_mesh(device)
    policy = MixedPrecisionPolicy()
    if precision == "bf16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    layers = [layer for model in filter(None, (module.model, module.reference)) for layer in split_layers(model)]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=mesh.size() > 1)
    sharded = cast(ShardedModule, fully_shard(module, mesh=mesh, mp_policy=policy))
    for method in ("predict", "predict_next", "sample", "write"):
        register_fsdp_forward_method(sharded, method)
    return sharded


def split_layers(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Yield the blocks that the architecture keeps on one device, without those that share a weight with another part.

    Some architectures list embeddings among them; tied to the output layer, these are sharded with the whole model.
    """
    names = set(model._no_split_modules or ())
    owners = Counter(weight for module in model.modules() for weight in module.parameters(recurse=False))
    for module in model.modules():
        if type(module).__name__ in names and all(owners[weight] == 1 for weight in module.parameters()):
            yield module


def scatter_weights(model: PreTrainedModel, weights: dict[str, torch.Tensor] | None, device: torch.device) -> None:
    """Allocate a sharded model and fill it with rank 0's weights, one at a time; other ranks pass None."""

    def allocate(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    model._apply(allocate)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            assert isinstance(parameter, DTensor), name
            full = torch.empty(parameter.shape) if weights is None else weights[name]
            shard = distribute_tensor(full.to(device), parameter.device_mesh, parameter.placements)
            parameter.copy_(shard)
    spread_buffers(model, weights, device)


def _checkpoint_activations(model: PreTrainedModel) -> None:
    """Recompute each layer in the backward pass. Releases of transformers have different names for the method."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _world_mesh(device: torch.device) -> DeviceMesh:
    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))
