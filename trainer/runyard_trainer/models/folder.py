"""A Hugging Face model folder: copied from storage to this node's disk, and the digest of its content."""

from __future__ import annotations

import hashlib
from pathlib import Path

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.storage.open import open_store

CARD_NAME = "README.md"


def digest_of(folder: Path) -> str:
    """Return the sha256 over a line `<name> <sha256>` for each file, in order of name.

    The model card is left out, which describes the run: so the same weights have the same digest.
    """
    lines = []
    for path in files_of(folder):
        if path.name == CARD_NAME:
            continue
        with path.open("rb") as file:
            lines.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder, in order of name."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def download_model(recipe: Recipe, folder: Path) -> None:
    """Copy the folder at `model.uri`, without files that could run code.

    Raises:
        UserError: DATA_ERROR where it has not the digest that the recipe gives.
    """
    assert recipe.model.uri is not None, "the contract holds exactly one of uri, run and scratch"
    source = open_store(recipe.model.uri, recipe.storage, "model.uri")
    folder.mkdir(parents=True, exist_ok=True)
    for name in source.children():
        is_ours = recipe.model.digest is not None and name != CARD_NAME
        if "/" not in name and (is_ours or name.endswith((".safetensors", ".json"))):
            (source / name).download_file(folder / name)
    found = digest_of(folder) if recipe.model.digest else None
    if found != recipe.model.digest:
        raise UserError(
            f"model.uri: {source} has digest {found}, and model.digest says {recipe.model.digest}: another model lies "
            "there now. Start from that one by its own digest, or bring the wanted one back",
            ExitCode.DATA_ERROR,
        )
