"""Describe streams and shards for dataset.json, and download a shard to a node: once, and checked."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
from pydantic import Field

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.reports import Fertility, Report
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.lock import locked


class ShardInfo(Report):
    """One shard: the objects `<name>.bin` and `<name>.idx`, or `<name>.arrow`."""

    name: str
    sha256: str
    """The sha256 of the tokens (.bin) or examples (.arrow)."""
    index_sha256: str | None = None
    """The sha256 of the document ends (.idx)."""
    tokens: int
    documents: int


class SourceCount(Report):
    """The part of a stream that comes from one source."""

    documents: int = 0
    """Documents, or examples."""
    tokens: int = 0


class StreamInfo(Report):
    """One stream of a dataset."""

    documents: int = 0
    """Documents, or examples."""
    tokens: int = 0
    """Tokens, end-of-document tokens among them."""
    bytes: int = 0
    """UTF-8 bytes of the text, by which bits per byte are computed."""
    document_tokens: dict[str, int] = Field(default_factory=dict)
    """Percentiles of the documents' lengths in tokens: p50, p90, p99, max."""
    truncated: int = 0
    """Examples that the sequence length cut."""
    dropped: int = 0
    """Records that became no example, because nothing of them would be trained on."""
    trained_tokens: int = 0
    """Tokens of a held-out stream that the loss is taken over."""
    fertility: Fertility | None = None
    """How finely the tokenizer cuts the text of a held-out stream."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Rows that were left out of the stream, counted by reason (`data.filters.fates`)."""
    by_source: list[SourceCount] = Field(default_factory=list)
    """The parts of the stream by source, in order; sources after the last one that gave anything are missing."""
    shards: list[ShardInfo] = Field(default_factory=list)


def describe_stream(lengths: Counter[int], shards: list[ShardInfo]) -> StreamInfo:
    """Describe a written stream by its shards and by the count of its documents of each length in tokens."""
    return StreamInfo(
        documents=lengths.total(),
        tokens=sum(shard.tokens for shard in shards),
        document_tokens=summarize(lengths),
        shards=shards,
    )


def summarize(lengths: Counter[int]) -> dict[str, int]:
    """Compute percentiles of lengths from the count of each."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    ends = np.cumsum([lengths[value] for value in values.tolist()])
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: int(values[np.searchsorted(ends, share * ends[-1])]) for name, share in ranks.items()}


def fetch(source: Location, cache_dir: Path, sha256: str) -> Path:
    """Return a shard's file on this node's disk; the first of the node's ranks that asks downloads it."""
    path = cache_dir / source.name
    with locked(path.with_suffix(path.suffix + ".lock")):
        if not path.exists():
            _download(source, path, sha256)
    return path


def _download(source: Location, path: Path, sha256: str) -> None:
    """Download a file, and give it its name only when it is whole and has the right sha256."""
    part = path.with_suffix(path.suffix + ".part")
    source.download_file(part)
    with part.open("rb") as file:
        check_sha256(source, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
    part.replace(path)


def check_sha256(location: Location, found: str, wanted: str | None) -> None:
    """Refuse contents whose sha256 is not the expected one.

    Raises:
        UserError: DATA_ERROR.
    """
    if wanted is not None and found != wanted:
        raise UserError(
            f"{location} is damaged or was changed: its sha256 is {found}, expected {wanted}. "
            f"Delete {location.parent}/ and prepare again",
            ExitCode.DATA_ERROR,
        )
