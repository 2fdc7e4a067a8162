"""Name everything that tokens depend on: the same key, the same shards."""

from __future__ import annotations

import hashlib
import json

from runyard_trainer.contract.base import dump_tokens_by_value
from runyard_trainer.contract.objectives import MASKED_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.sources.listing import SourceFile
from runyard_trainer.data.tokenizers.tokenizer import list_tokenizer_files
from runyard_trainer.models.config import check_model, has_token_types
from runyard_trainer.preparation.record_streams import Files
from runyard_trainer.preparation.tokenizer import tokenizer_source
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.folder import FolderStore

_FORMAT = 6
"""Of what lies under a key: raised when the same text would give other shards."""


def compute_key(recipe: Recipe, files: Files) -> str:
    """Return a name for everything that the tokens depend on: with the same key, shards are the same.

    The fields of `data` and `model` that are a part of it carry marks in the contract (`Tokens`).
    """
    data = dump_tokens_by_value(recipe.data)
    select = data.pop("select")
    inputs = {
        "format": _FORMAT,
        "files": {stream: [_describe_file(file) for file in listed] for stream, listed in files.items()},
        "objective": recipe.objective,
        "records": kind_of(recipe, "train").depends_on(recipe),
        "validation": recipe.data.validation.held_out_fraction,
        "screening": data,
        "select": select | _describe_select_by_use(recipe) if select is not None else None,
        "tokenizer": _describe_tokenizer(recipe),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _describe_file(file: SourceFile) -> list[object]:
    columns = file.columns.model_dump()
    return [file.location.uri, file.etag, file.size_bytes, file.format, file.record_format, file.source, columns]


def _describe_select_by_use(recipe: Recipe) -> dict[str, object]:
    select = recipe.data.select
    assert select is not None
    seed = recipe.training.seed if select.sampling == "soft" else None
    return {"noiseClip": select.resolved_noise_clip, "seed": seed}


def _describe_tokenizer(recipe: Recipe) -> dict[str, object]:
    model = recipe.model
    if model.scratch is not None and model.scratch.tokenizer.train is not None:
        training = dump_tokens_by_value(model.scratch.tokenizer.train)
        if recipe.objective in MASKED_OBJECTIVES:
            training["hasTypes"] = has_token_types(check_model(recipe))
        return training
    found = list_tokenizer_files(tokenizer_source(recipe)[0])
    files: dict[str, object] = {name: info.etag for name, info in found.items()}
    if model.extend_vocabulary is None:
        return files
    return {"files": files, **dump_tokens_by_value(model.extend_vocabulary)}


def dataset_location(output: Location, namespace: str, key: str) -> Location:
    """Return where the runs of a namespace share prepared data: at the bucket's root, or beside a file:// output."""
    root = output.parent if isinstance(output.store, FolderStore) else Location(output.store, "")
    return root / ".runyard" / namespace / "prepared" / key
