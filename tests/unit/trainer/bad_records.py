"""What preparing says of records that are wrong: a model's folder, a line that is right, and the line in question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runyard_trainer.context import RunContext
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.prepare import prepare
from transformers import BertConfig

from tests.ranks.tiny_models import build_tokenizer


def prepare_lines(
    folder: Path, objective: str, *rows: Any, length: int = 32, data: dict[str, Any] | None = None, **source: Any
) -> None:
    """Prepare a BERT for an objective from one JSONL file; a row that is bytes is written as it is.

    Args:
        folder: where everything lies, the rows in data.jsonl.
        objective: what it is prepared for.
        rows: of the file.
        length: of a sequence.
        data: more of that section of the recipe.
        source: what the recipe says of the file besides.
    """
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder / "model")
    BertConfig(vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    (folder / "model" / "model.safetensors").touch()  # weights are not read to prepare
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    (folder / "data.jsonl").write_bytes(b"\n".join(lines))
    recipe = Recipe.model_validate(
        {
            "objective": objective,
            "model": {"uri": f"file://{folder}/model"},
            "data": {"train": [{"uri": f"file://{folder}/data.jsonl", **source}], **(data or {})},
            "training": {"epochs": 1, "sequenceLength": length},
            "output": {"uri": f"file://{folder}/output"},
        }
    )
    prepare(recipe, RunContext.from_environment({}, recipe))


def explain(folder: Path, objective: str, *rows: Any, **options: Any) -> str:
    """Return what prepare says of them, the folder's name left out."""
    with pytest.raises(UserError) as caught:
        prepare_lines(folder, objective, *rows, **options)
    assert caught.value.code is ExitCode.DATA_ERROR
    return str(caught.value).replace(f"file://{folder}/", "")
