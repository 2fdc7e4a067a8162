"""Where the result goes, and the servers that a recipe names: object storage, a judge, MLflow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import InputUri, Model, Uri


class Output(Model):
    """Where everything the run leaves lies: model/, checkpoints/, report.html, metrics.csv, eval.json, lineage.json."""

    uri: Uri
    """A prefix that this run alone writes to."""
    take_over: bool = False
    """Continue from what another run has left there."""


class Storage(Model):
    """How to reach S3. What is absent comes from the operator's settings."""

    endpoint: str | None = Field(default=None, max_length=1024, pattern=r"^https?://.+$")
    """URL of an S3-compatible server. Absent everywhere: AWS."""
    region: str | None = Field(default=None, min_length=1, max_length=64)
    """Region name."""
    addressing: Literal["path", "virtual"] | None = None
    """Whether the bucket is in the path or in the host name."""
    secret_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Secret in the run's namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    fencing: Literal["conditional-writes", "none"] = "conditional-writes"
    """`none`: for a store without If-Match; two attempts that overlap can then overwrite each other."""


class JudgePrompts(Model):
    """What both models answer."""

    uri: InputUri
    """A file of records, or every file under a prefix ending in `/`: JSONL, JSON, CSV or Parquet by the file's ending.
    Each record has `prompt`, given to the model as it stands, or `messages`, laid out by the model's chat template."""


class Judge(Model):
    """Which answers are better is asked of another model, each pair in both orders. For causal-lm, sft, preference."""

    endpoint: str = Field(max_length=1024, pattern=r"^https?://[^@?#\s]+$")
    """Base URL of a server that speaks OpenAI's protocol, up to and with `/v1`: prompts and answers go to its
    `/chat/completions`, and nowhere else."""
    model: str = Field(min_length=1, max_length=253)
    """What the server calls the judge."""
    prompts: JudgePrompts
    """What both models answer: at most 128 prompts, spread evenly over the records."""
    secret_name: str | None = Field(default=None, min_length=1, max_length=253)
    """Secret in the run's namespace with JUDGE_API_KEY, which is sent as a bearer token. Absent: none is sent."""


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
