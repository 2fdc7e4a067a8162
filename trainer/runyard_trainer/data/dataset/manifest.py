"""What dataset.json says of streams and shards, and how a shard's file comes to a node: once, whole and right."""

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
    """One shard: objects of this name, ending in .bin and .idx, or in .arrow."""

    name: str
    sha256: str
    """Of the tokens (.bin), or of the examples (.arrow)."""
    index_sha256: str | None = None
    """Of the document ends (.idx)."""
    tokens: int
    documents: int


class SourceCount(Report):
    """What one source has given to a stream."""

    documents: int = 0
    """Or examples."""
    tokens: int = 0


class StreamInfo(Report):
    """One stream of a dataset."""

    documents: int = 0
    """Or examples."""
    tokens: int = 0
    """End-of-document tokens included."""
    bytes: int = 0
    """UTF-8 bytes of the text: what bits per byte divide by."""
    document_tokens: dict[str, int] = Field(default_factory=dict)
    """Percentiles of the documents' lengths in tokens: p50, p90, p99, max."""
    truncated: int = 0
    """Examples that the sequence length cut."""
    dropped: int = 0
    """Records of which nothing would be trained on."""
    trained_tokens: int = 0
    """Those that the loss is taken over, of held-out streams."""
    fertility: Fertility | None = None
    """How finely the tokenizer cuts the text, of held-out streams."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Records, and rows that are none, that are not in the stream: how many for which reason (`screening`)."""
    by_source: list[SourceCount] = Field(default_factory=list)
    """Of each source in order, up to the last that has given anything: the stream is theirs one after the other."""
    shards: list[ShardInfo] = Field(default_factory=list)


def describe_stream(lengths: Counter[int], shards: list[ShardInfo]) -> StreamInfo:
    """A stream that was written: how often each length in tokens came, and where it lies."""
    return StreamInfo(
        documents=lengths.total(),
        tokens=sum(shard.tokens for shard in shards),
        document_tokens=summarize(lengths),
        shards=shards,
    )


def summarize(lengths: Counter[int]) -> dict[str, int]:
    """Percentiles of lengths, of which each is counted."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    ends = np.cumsum([lengths[value] for value in values.tolist()])
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: int(values[np.searchsorted(ends, share * ends[-1])]) for name, share in ranks.items()}


def fetch(source: Location, cache_dir: Path, sha256: str) -> Path:
    """A shard's file on this node's disk, downloaded when it is first asked for by any of the node's ranks."""
    path = cache_dir / source.name
    with locked(path.with_suffix(path.suffix + ".lock")):
        if not path.exists():
            _download(source, path, sha256)
    return path


def _download(source: Location, path: Path, sha256: str) -> None:
    """A file that is there is whole and right: it gets its name when it has been checked."""
    part = path.with_suffix(path.suffix + ".part")
    source.download_file(part)
    with part.open("rb") as file:
        check_sha256(source, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
    part.replace(path)


def check_sha256(location: Location, found: str, wanted: str | None) -> None:
    """Raises UserError: DATA_ERROR where the two differ."""
    if wanted is not None and found != wanted:
        raise UserError(
            f"{location} is damaged or was changed: its sha256 is {found}, expected {wanted}. "
            f"Delete {location.parent}/ and prepare again",
            ExitCode.DATA_ERROR,
        )
