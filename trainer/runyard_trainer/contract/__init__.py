"""What the operator asks of the trainer: the recipe of a run. What comes back is in `outcome`.

A `Recipe` says what to learn, from what, and where to leave it. It is the recipe half of a TrainingRun's spec (the
operator adds compute, recovery and suspend), and a file that a person can run alone:
`python -m runyard_trainer recipe.yaml`.

Nothing here knows Kubernetes or torch: only pydantic is imported, so the operator's image stays small.
"""

from __future__ import annotations

from runyard_trainer.contract.base import URI_PATTERN, Model
from runyard_trainer.contract.data import (
    DEFAULT_NOISE_CLIP,
    PERPLEXITY_REFUSAL,
    RECORD_FORMATS,
    REFERENCE_METHODS,
    TARGET_METHODS,
    Columns,
    Data,
    DataSource,
    Select,
    Validation,
)
from runyard_trainer.contract.judge import Judge
from runyard_trainer.contract.models import (
    ADAPTER_FIELDS,
    MAX_CONFIG_DEPTH,
    MAX_CONFIG_ENTRIES,
    MAX_CONFIG_TEXT_LENGTH,
    ModelSource,
    ScratchModel,
    SourceRun,
    TokenizerTraining,
)
from runyard_trainer.contract.objectives import (
    EXTENDABLE_OBJECTIVES,
    HEAD_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    MASKED_OBJECTIVES,
    NEXT_TOKEN_OBJECTIVES,
    Mode,
)
from runyard_trainer.contract.recipe import RECIPE_PATH, Recipe
from runyard_trainer.contract.storage import Storage
from runyard_trainer.contract.tracking import MLFLOW_VARIABLES, Mlflow, Tracking
from runyard_trainer.contract.training import EarlyStopping, Optimizer, Schedule, Training

__all__ = [
    "ADAPTER_FIELDS",
    "DEFAULT_NOISE_CLIP",
    "EXTENDABLE_OBJECTIVES",
    "HEAD_OBJECTIVES",
    "LANGUAGE_OBJECTIVES",
    "MASKED_OBJECTIVES",
    "MAX_CONFIG_DEPTH",
    "MAX_CONFIG_ENTRIES",
    "MAX_CONFIG_TEXT_LENGTH",
    "MLFLOW_VARIABLES",
    "NEXT_TOKEN_OBJECTIVES",
    "PERPLEXITY_REFUSAL",
    "RECIPE_PATH",
    "RECORD_FORMATS",
    "REFERENCE_METHODS",
    "TARGET_METHODS",
    "URI_PATTERN",
    "Columns",
    "Data",
    "DataSource",
    "EarlyStopping",
    "Judge",
    "Mlflow",
    "Mode",
    "Model",
    "ModelSource",
    "Optimizer",
    "Recipe",
    "Schedule",
    "ScratchModel",
    "Select",
    "SourceRun",
    "Storage",
    "TokenizerTraining",
    "Tracking",
    "Training",
    "Validation",
]
