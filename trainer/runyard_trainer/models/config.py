"""Checks of a model that need neither its weights nor a GPU: its configuration, its files and its longest sequence.

    model.uri/config.json, model.scratch.config ─(check_model)─> configuration, or a UserError that names the field

Modelling code is not loaded for that: it takes longer than all the rest of preparing a small run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.models.auto import modeling_auto

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.models import ScratchModel
from runyard_trainer.contract.objectives import OBJECTIVES, ObjectiveName
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.models.generation import GENERATION_NAME, parse_generation
from runyard_trainer.models.quantized import check_packable
from runyard_trainer.models.source_checkpoint import find_checkpoint
from runyard_trainer.storage.base import Location, NotFound
from runyard_trainer.storage.open import open_store

_PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
_OLDER_FIELDS = {"rope_theta", "rope_scaling", "torch_dtype"}
"""Fields that transformers still reads though it no longer lists them."""
_MAX_POSITIONS = "max_position_embeddings"
_POSITIONS_AFTER_PADDING = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
"""Architectures whose first position is the one after pad_token_id: they take fewer tokens than they have positions."""


def check_model(recipe: Recipe) -> PretrainedConfig:
    """Check all of a model that shows without its weights, and return its configuration.

    Raises:
        UserError: SPEC_ERROR for what the recipe asks wrongly, DATA_ERROR for what the model's folder lacks.
    """
    traits = OBJECTIVES[recipe.objective]
    if recipe.method.type == "qlora":
        check_packable()
    if recipe.model.scratch is not None:
        config = _build_scratch_config(recipe.model.scratch, recipe.objective)
        field = "model.scratch.config."
    else:
        if recipe.model.uri is None:
            raise UserError("model.run is known in a cluster only: name model.uri, the folder that the run has left")
        if recipe.model.step is not None:
            find_checkpoint(recipe)
        folder = open_store(recipe.model.uri, recipe.storage, "model.uri")
        config = _read_config(folder, recipe.objective)
        if traits.predicts_next_token:
            _check_generation(folder)
        field = f"model.uri: {recipe.model.uri}/config.json says "
    if traits.is_masked and config.is_encoder_decoder:
        raise UserError(
            f"{field}model_type {config.model_type}: an encoder with a decoder is not trained by objective "
            f"{recipe.objective}: use an encoder (bert, roberta, modernbert, ...)"
        )
    if getattr(config, "quant_mode", False):
        raise UserError(
            f"{field}quant_mode true: {config.model_type} then takes the ranges of its activations from what it is "
            "trained on, each rank from its own samples, and a run leaves what is no weight as it came: train it with "
            "quant_mode false, and quantize what is exported"
        )
    _check_sequence_length(config, recipe.training.sequence_length, field)
    return config


def has_token_types(config: PretrainedConfig) -> bool:
    """Return whether the model tells the two texts of a pair apart by token types."""
    return (getattr(config, "type_vocab_size", None) or 0) > 1


def _build_scratch_config(scratch: ScratchModel, objective: ObjectiveName) -> PretrainedConfig:
    given = dict(scratch.config)
    model_type = given.pop("model_type", None)
    if model_type is None:
        raise UserError("model.scratch.config has no model_type: name the architecture, for example llama")
    _check_model_type(model_type, objective, "model.scratch.config.model_type")
    config_class = CONFIG_MAPPING[model_type]
    known = _known_fields(config_class)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise UserError(f"model.scratch.config.{name}: {model_type} has no such field{hint}")
    try:
        return config_class(**given)
    except Exception as error:  # the libraries raise many kinds for a wrong field
        raise UserError(f"model.scratch.config: {_last_line(error)}") from error


def _known_fields(config_class: type[PretrainedConfig]) -> set[str]:
    declared = {field.name for field in fields(config_class)} if is_dataclass(config_class) else set()
    return declared | set(config_class().to_dict()) | set(config_class.attribute_map) | _OLDER_FIELDS


def list_architectures(objective: ObjectiveName) -> Mapping[str, Any]:
    """Return the architectures that an objective can train, by their `model_type`."""
    architectures: Mapping[str, Any] = getattr(modeling_auto, OBJECTIVES[objective].architectures)
    return architectures


def _check_model_type(model_type: Any, objective: ObjectiveName, field: str) -> None:
    able, lacks = list_architectures(objective), OBJECTIVES[objective].lacks
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(able), n=1)
        hint = f"did you mean {near[0]}?" if near else "name another, for example llama"
        raise UserError(f"{field}: transformers {transformers.__version__} knows no {model_type!r}: {hint}")
    if model_type not in able:
        raise UserError(f"{field}: {model_type!r} {lacks}, which objective {objective} trains")


def _read_config(folder: Location, objective: ObjectiveName) -> PretrainedConfig:
    try:
        text = (folder / "config.json").get().data
    except NotFound as error:
        is_adapter = "adapter_config.json" in folder.children()
        what = (
            "is an adapter without its model: name a merged model" if is_adapter else "is no Hugging Face model folder"
        )
        raise UserError(f"model.uri: {folder} has no config.json: it {what}", ExitCode.DATA_ERROR) from error
    _check_weights(folder)
    try:
        given = json.loads(text)
        model_type = given["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model.uri: {folder}/config.json is not a configuration with a model_type: {error}", ExitCode.DATA_ERROR
        ) from error
    _check_model_type(model_type, objective, f"model.uri: {folder}/config.json: model_type")
    try:
        return CONFIG_MAPPING[model_type].from_dict(given)
    except Exception as error:  # as above
        raise UserError(f"model.uri: {folder}/config.json: {_last_line(error)}", ExitCode.DATA_ERROR) from error


def _check_generation(folder: Location) -> None:
    """Refuse a damaged generation_config.json now: it is read only when the model is exported."""
    with suppress(NotFound):
        parse_generation((folder / GENERATION_NAME).get().data, folder.uri)


def _check_weights(folder: Location) -> None:
    names = folder.children().keys()
    if not any(name.endswith(".safetensors") for name in names):
        pickles = ", ".join(sorted(name for name in names if name.endswith(_PICKLE_ENDINGS))[:3])
        found = f", only {pickles}, which may run code when opened" if pickles else ""
        raise UserError(
            f"model.uri: {folder} has no safetensors weights{found}: save the model again with save_pretrained",
            ExitCode.DATA_ERROR,
        )
    if "model.safetensors.index.json" in names:
        parts = set(json.loads((folder / "model.safetensors.index.json").get().data)["weight_map"].values())
        if missing := sorted(parts - names):
            raise UserError(
                f"model.uri: {folder} lacks {len(missing)} of {len(parts)} files of weights, {missing[0]} first: "
                "upload the whole model",
                ExitCode.DATA_ERROR,
            )


def count_positions(config: PretrainedConfig) -> int | None:
    """Return how many tokens a decoder takes at most; None where its configuration does not say."""
    positions: int | None = getattr(config.get_text_config(), _MAX_POSITIONS, None)
    return positions


def _check_sequence_length(config: PretrainedConfig, sequence_length: int, field: str) -> None:
    text_config = config.get_text_config()
    positions = getattr(text_config, _MAX_POSITIONS, None)
    is_offset = text_config.model_type in _POSITIONS_AFTER_PADDING
    unused = (text_config.pad_token_id or 0) + 1 if is_offset else 0
    if positions is not None and sequence_length > positions - unused:
        name = text_config.attribute_map.get(_MAX_POSITIONS, _MAX_POSITIONS)
        note = f", of which {unused} up to pad_token_id are unused" if unused else ""
        raise UserError(
            f"training.sequenceLength is {sequence_length}, but the model takes at most {positions - unused} tokens "
            f"({field}{name} {positions}{note}): shorten training.sequenceLength"
        )


def check_vocabulary(config: PretrainedConfig, vocab_size: int, recipe: Recipe) -> None:
    """Refuse a tokenizer with token ids that a trained model has no embedding for; a new one is built to fit."""
    if recipe.model.uri is None:
        return
    rows = config.get_text_config().vocab_size
    if vocab_size > rows:
        raise UserError(
            f"model.uri: the tokenizer of {recipe.model.uri} has {vocab_size} tokens, but config.json says vocab_size "
            f"{rows}: put the tokenizer there that the model was trained with",
            ExitCode.DATA_ERROR,
        )


def classes_of(config: PretrainedConfig) -> list[str]:
    """Return the names of the classes of a model's head, in the order of its outputs."""
    return [str(name) for _, name in sorted((config.id2label or {}).items())]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
