"""Read a file that a person wrote: a recipe, or any YAML document.

Of the contract, only this module imports yaml: the operator reads no files, and its image need not have it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from runyard_trainer.contract.base import describe_errors
from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.recipe import Recipe


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads 5e-5 as a number, as YAML 1.2 and kubectl do and PyYAML does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_document(path: Path) -> Any:
    """Read YAML or JSON.

    Raises:
        UserError: the file cannot be read, or is not one YAML document.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not one YAML document: {error}") from error


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML or JSON.

    Raises:
        UserError: the file cannot be read, or is no recipe: a line for each field that is wrong.
    """
    document = read_document(path)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise UserError(describe_mistakes(path, "recipe", error)) from error


def describe_mistakes(path: Path, kind: str, error: ValidationError, root: str = "") -> str:
    """Return what is wrong with a file that was to be a document of this kind: a line for each mistake."""
    return "\n".join([f"{path} is no {kind}:", *(f"  {mistake}" for mistake in describe_errors(error, root))])
