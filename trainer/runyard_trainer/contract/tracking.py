"""Where a run is followed besides what it leaves on storage."""

from __future__ import annotations

from pydantic import Field

from runyard_trainer.contract.base import Model

MLFLOW_VARIABLES = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""What a server may ask for, named as MLflow's own client names it: a token, or a name and a password."""


class Mlflow(Model):
    """A tracking server of MLflow's. What it does never costs a run: `metrics.csv` is the truth."""

    uri: str = Field(max_length=1024, pattern=r"^https?://[^@?#\s]+$")
    """Base URL of the server, as MLFLOW_TRACKING_URI has it."""
    experiment: str = Field(default="runyard", min_length=1, max_length=250)
    """The experiment that the run belongs to; made where there is none of that name."""
    secret_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Secret in the run's namespace with MLFLOW_TRACKING_TOKEN, or with MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD. Absent: the server asks for nothing."""


class Tracking(Model):
    """Where the run's settings, its metrics and how it ends are told besides."""

    mlflow: Mlflow | None = None
    """A run of MLflow's, one over all attempts. Absent: none."""
