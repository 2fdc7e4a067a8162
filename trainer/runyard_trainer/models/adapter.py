"""Adapters: two thin matrices beside each weight of a model, which itself stays frozen.

    model ─(add_adapter, in place)─> the same model: adapters in its layers and everything else frozen, but what is
                                     trained whole: a head that the objective brings, and embeddings with new tokens
    gathered weights ─> adapter/  what PeftModel.from_pretrained(base, folder) opens
                     └> model/    the sum of both, an ordinary model folder

peft builds and merges them. Its wrapper around the model is used only for saving; the model within it is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.objectives import OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.models.embeddings import embeddings_of

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapter(model: PreTrainedModel, recipe: Recipe, new_parts: Sequence[str]) -> PeftModel:
    """Put the recipe's adapter into a model, in place; its first weights are a function of the seed.

    Args:
        model: with or without weights (on the meta device).
        recipe: with an adapter as its method.
        new_parts: names of parts that the objective brings: those the model has are trained whole.

    Raises:
        UserError: the model has no such layers.
    """
    from peft import LoraConfig, get_peft_model  # deferred: it takes seconds that runs without an adapter do not need

    heads = find_parts(model, new_parts)
    _check_targets(model, recipe, heads)
    method = recipe.method
    config = LoraConfig(
        r=method.resolved_rank,
        lora_alpha=cast(int, method.resolved_alpha),  # any number will do
        lora_dropout=recipe.adapter_dropout,
        use_dora=method.type == "dora",
        target_modules=method.targets or "all-linear",
        exclude_modules=rf"(.*\.)?({'|'.join(heads)})(\..*)?" if heads else None,
        modules_to_save=heads or None,
        task_type=OBJECTIVES[recipe.objective].peft_task_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        adapted = get_peft_model(model, config)
    if recipe.model.extend_vocabulary is not None:
        for layer in embeddings_of(model):
            layer.requires_grad_(True)
    # peft has noted a folder on this node's disk, and names as a set: in another order each time
    config.base_model_name_or_path = recipe.model.uri
    config.target_modules = sorted(cast(set[str], config.target_modules))
    return cast("PeftModel", adapted)


def find_parts(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Find the paths of parts with these names, at the top of the model or of its body."""
    body = model.base_model_prefix
    paths = [path for name in names for path in (name, f"{body}.{name}")]
    modules = dict(model.named_modules())
    return sorted(path for path in paths if isinstance(modules.get(path), nn.Module))


def _check_targets(model: PreTrainedModel, recipe: Recipe, heads: Sequence[str]) -> None:
    """Refuse a name that no layer has, and the output's, whose product the loss computes by itself."""
    output = cast(Any, model).get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    usable = [name for name, module in linear.items() if module is not output and not name.startswith(tuple(heads))]
    for number, target in enumerate(recipe.method.targets or []):
        if not any(name == target or name.endswith(f".{target}") for name in usable):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in usable}))
            raise UserError(
                f"method.targets[{number}]: {recipe.model.uri} has no linear layer {target!r} that can get an "
                f"adapter: name some of {known}, or leave method.targets away for all of them"
            )


def has_dropout(model: nn.Module) -> bool:
    """Return whether the adapter has dropout, which shows in the output only once its weights are not zero."""
    return any(
        isinstance(part, nn.Dropout) and part.p > 0 for layer in _adapted_layers(model) for part in layer.modules()
    )


@contextmanager
def adapter_left_out(model: nn.Module) -> Iterator[None]:
    """Run the body with the adapter switched off: the model as it came.

    peft's own way to do so also says of each weight whether it is trained, which a sharded model must not be told
    between two passes.
    """
    layers = _adapted_layers(model)
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def _adapted_layers(model: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer  # deferred, as above

    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]


# ------------------------------------------------------------------------------------------------------------- export


def load_whole(adapted: PeftModel, weights: dict[str, Any]) -> None:
    """Fill an adapted model on the meta device with the weights that its sharded twin was trained to."""
    model: Any = adapted.get_base_model()
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Return the model with the adapter added to its weights; nothing in it tells that there was one."""
    return cast(PreTrainedModel, adapted.merge_and_unload())
