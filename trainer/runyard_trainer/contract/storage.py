"""Where the result goes, and how to reach it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from runyard_trainer.contract.base import Model, Uri


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
