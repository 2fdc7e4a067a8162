"""Name everything that tokens depend on: the same key, the same shards."""

from __future__ import annotations

import hashlib
import json

from runyard_trainer.contract.objectives import MASKED_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.tokenizers.tokenizer import list_tokenizer_files
from runyard_trainer.models.config import check_model, has_token_types
from runyard_trainer.preparation.record_streams import Files
from runyard_trainer.preparation.tokenizer import tokenizer_source
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.folder import FolderStore

_FORMAT = 6
"""Of what lies under a key: raised when the same text would give other shards."""


def compute_key(recipe: Recipe, files: Files) -> str:
    """Names everything that the tokens depend on: the same key, the same shards."""
    inputs = {
        "format": _FORMAT,
        "files": {
            stream: [
                [
                    file.location.uri,
                    file.etag,
                    file.size_bytes,
                    file.format,
                    file.record_format,
                    file.source,
                    file.columns.model_dump(),
                ]
                for file in listed
            ]
            for stream, listed in files.items()
        },
        "objective": recipe.objective,
        "records": kind_of(recipe, "train").depends_on(recipe),
        "validation": recipe.data.validation.held_out_fraction,
        "screening": recipe.data.model_dump(mode="json", include={"deduplicate", "decontaminate", "invalid_rows"}),
        "select": _describe_select(recipe),
        "tokenizer": _describe_tokenizer(recipe),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _describe_select(recipe: Recipe) -> object:
    """What is asked for; the texts to compare with are among the files."""
    select = recipe.data.select
    if select is None:
        return None
    settings = select.model_dump(mode="json", include={"method", "fraction", "sampling"})
    return settings | {
        "noiseClip": select.resolved_noise_clip,
        "seed": recipe.training.seed if select.sampling == "soft" else None,
    }


def _describe_tokenizer(recipe: Recipe) -> object:
    scratch = recipe.model.scratch
    if scratch is not None and scratch.tokenizer.train is not None:
        training = scratch.tokenizer.train.model_dump(mode="json")
        if recipe.objective in MASKED_OBJECTIVES:
            training["hasTypes"] = has_token_types(check_model(recipe))
        return training
    files = {name: info.etag for name, info in list_tokenizer_files(tokenizer_source(recipe)[0]).items()}
    extension = recipe.model.extend_vocabulary
    return files if extension is None else {"files": files, **extension.model_dump()}


def dataset_location(output: Location, namespace: str, key: str) -> Location:
    """Where the runs of a namespace share prepared data: at the bucket's root, or beside a file:// output."""
    root = output.parent if isinstance(output.store, FolderStore) else Location(output.store, "")
    return root / ".runyard" / namespace / "prepared" / key
