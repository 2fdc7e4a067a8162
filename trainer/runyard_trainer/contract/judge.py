"""A model that compares what the base writes with what the adapted model writes."""

from __future__ import annotations

from pydantic import Field

from runyard_trainer.contract.base import Model, Uri


class JudgePrompts(Model):
    """What both models answer."""

    uri: Uri
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
