"""generation_config.json: how a model writes, and the tokens that end what it writes.

It often names more end tokens than config.json. It is kept as it was published, field by field, and never read by
transformers, which refuses to save some published ones, such as Llama 2's with a temperature and without do_sample.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runyard_trainer.contract.exits import ExitCode, UserError

GENERATION_NAME = "generation_config.json"
Generation = dict[str, Any]

_ENDS = "eos_token_id"


def parse_generation(data: bytes, folder: str) -> Generation:
    """Read the fields of a file.

    Args:
        data: what the file holds.
        folder: where it lies, for messages.

    Raises:
        UserError: DATA_ERROR where it is damaged.
    """
    where = f"model.uri: {folder}/{GENERATION_NAME}"
    try:
        given = json.loads(data)
    except ValueError as error:
        raise UserError(
            f"{where} is damaged: {error}. Upload it again, or remove it: config.json then says how the model writes",
            ExitCode.DATA_ERROR,
        ) from error
    if not isinstance(given, dict):
        raise UserError(f"{where} is no JSON object: upload it again, or remove it", ExitCode.DATA_ERROR)
    if any(not isinstance(end, int) for end in list_ends(given)):
        raise UserError(
            f"{where}: {_ENDS} is {json.dumps(given[_ENDS])}: give the id of a token, or a list of them",
            ExitCode.DATA_ERROR,
        )
    return given


def take_file(folder: Path) -> bytes | None:
    """Remove the file from a folder; None where there is none."""
    path = folder / GENERATION_NAME
    if not path.exists():
        return None
    data = path.read_bytes()
    path.unlink()
    return data


def list_ends(generation: Generation) -> list[Any]:
    """Return the ids of the tokens that end what is written."""
    ends = generation.get(_ENDS)
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def read_ends(folder: Path) -> list[int] | None:
    """Read the end tokens that an exported folder names; None where it names none."""
    path = folder / GENERATION_NAME
    return (list_ends(json.loads(path.read_bytes())) if path.exists() else []) or None


def add_ends(generation: Generation, ends: list[int], known: list[int]) -> Generation:
    """Add end tokens behind a file's own; `known` are those of config.json, which count where the file names none."""
    own = list_ends(generation)
    if all(end in own for end in ends):
        return generation
    every = list(dict.fromkeys([*(own or known), *ends]))
    return generation | {_ENDS: every if len(every) > 1 else every[0]}


def write_generation(generation: Generation, folder: Path) -> None:
    """Put it into a folder, in the place of what transformers has made of config.json."""
    text = json.dumps(generation, indent=2) + "\n"  # in ASCII: half a character, which JSON allows, has no UTF-8
    (folder / GENERATION_NAME).write_text(text, encoding="utf-8")
