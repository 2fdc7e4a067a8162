"""Load the weights of a checkpoint that another run has kept, for a run that starts from it.

<output>/model      `model.uri`: configuration and tokenizer
<output>/head.json  which checkpoints there are ─> the one of `model.step` ─> its files, checked by sha256
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import PreTrainedModel

from runyard_trainer.checkpoints.files import (
    MODEL_WEIGHTS_PREFIX,
    CheckpointFolder,
    Corrupt,
    PlainLoadPlanner,
    VerifiedReader,
    read_manifest,
)
from runyard_trainer.checkpoints.head import HEAD_NAME, CheckpointEntry, HeadState
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.storage.base import Location, NotFound
from runyard_trainer.storage.open import open_store


def load_checkpoint_weights(model: PreTrainedModel, recipe: Recipe, scratch_dir: Path) -> None:
    """Replace the weights of a whole model by those of the checkpoint of `model.step`; only one process calls this.

    Raises:
        UserError: DATA_ERROR where the checkpoint is missing, damaged or of another model.
    """
    output, entry = find_checkpoint(recipe)
    try:
        manifest = read_manifest(output, entry)
        folder = CheckpointFolder((output / entry.manifest).parent, manifest, scratch_dir / "checkpoint")
        reader = VerifiedReader(folder)
        state = {f"{MODEL_WEIGHTS_PREFIX}{name}": weight for name, weight in _own_weights(model).items()}
        missing = sorted(state.keys() - reader.read_metadata().state_dict_metadata.keys())
        if missing:
            raise UserError(
                f"model.step: the checkpoint of step {entry.step} at {output} lacks "
                f"{missing[0].removeprefix(MODEL_WEIGHTS_PREFIX)}: it is of another model, or of an adapter alone",
                ExitCode.DATA_ERROR,
            )
        load(state, storage_reader=reader, planner=PlainLoadPlanner(), no_dist=True)
    except Corrupt as error:
        raise UserError(
            f"model.step: the checkpoint of step {entry.step} is damaged: {error}. Take another one",
            ExitCode.DATA_ERROR,
        ) from error


def _own_weights(model: PreTrainedModel) -> Mapping[str, torch.Tensor]:
    """Return the weights that training saves: parameters, tied ones once."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def find_checkpoint(recipe: Recipe) -> tuple[Location, CheckpointEntry]:
    """Find the output that the folder at `model.uri` lies in, and its checkpoint of `model.step`.

    Raises:
        UserError: DATA_ERROR where there is none.
    """
    assert recipe.model.uri is not None
    output = open_store(recipe.model.uri, recipe.storage, "model.uri").parent
    try:
        head = HeadState.model_validate_json((output / HEAD_NAME).get().data)
    except (NotFound, ValidationError) as error:
        raise UserError(
            f"model.step: no run's {HEAD_NAME} lies beside {recipe.model.uri}, so there are no checkpoints: remove "
            "model.step, or name the model folder that the run has left",
            ExitCode.DATA_ERROR,
        ) from error
    kept = {entry.step: entry for entry in head.entries}
    if recipe.model.step not in kept:
        steps = ", ".join(map(str, sorted(kept))) or "none"
        raise UserError(
            f"model.step: {output} has no checkpoint of step {recipe.model.step}; kept are {steps}. Name one of these "
            "(checkpoint.keepEverySteps keeps more)",
            ExitCode.DATA_ERROR,
        )
    return output, kept[recipe.model.step]
