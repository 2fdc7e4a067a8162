"""dataset.json and resolved.json, and the dataset that they describe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from runyard_trainer.contract.reports import Report
from runyard_trainer.data.dataset.example_shards import Examples
from runyard_trainer.data.dataset.manifest import StreamInfo, check_sha256
from runyard_trainer.data.dataset.token_shards import Stream, _Shard
from runyard_trainer.storage.base import Location


class DatasetInfo(Report):
    """dataset.json."""

    dtype: str
    """Of the token ids: uint16 or uint32."""
    vocab_size: int
    eos_token_id: int
    """Ends each document, and pads packed text."""
    pad_token_id: int | None = None
    """Pads examples."""
    cls_token_id: int | None = None
    """Begins an example for the masked objectives, as the three below are for them alone."""
    sep_token_id: int | None = None
    """Ends each text of such an example."""
    mask_token_id: int | None = None
    """Stands for what is to be found."""
    special_token_ids: list[int] = Field(default_factory=list)
    """Those that are no text: never masked, and never put in place of text."""
    streams: dict[str, StreamInfo]
    labels: list[str] = Field(default_factory=list)
    """The classes, in the order of their numbers; empty where there are none."""
    is_multi_label: bool = False
    """Whether a text may have any number of them."""
    stop_token_ids: list[int] = Field(default_factory=list)
    """What answers end with; empty where there are none."""
    tokenizer_digest: str = ""
    """Of `tokenizer/`, as of a model folder."""
    new_tokens: list[list[int]] = Field(default_factory=list)
    """Of each token that was added to the model's own tokenizer, in order of id, which of its tokens it joins; they are
    the last ones of the vocabulary."""
    base_streams: dict[str, StreamInfo] = Field(default_factory=dict)
    """What is held out in tokens of the model's own tokenizer, where others were added."""

    @property
    def base_vocab_size(self) -> int:
        """Without what was added."""
        return self.vocab_size - len(self.new_tokens)

    def write_out(self, ids: Iterable[int]) -> list[int]:
        """Token ids as the model's own tokenizer has them."""
        return write_out(ids, self.new_tokens, self.base_vocab_size)


class Resolved(Report):
    """resolved.json: what prepare leaves for the attempts, beside the output."""

    dataset: str
    """URI of dataset.json."""
    sha256: str
    """Of its bytes."""
    resolved: dict[str, str]
    """Each value that was automatic, as text."""
    labels: list[str] = Field(default_factory=list)
    """The dataset's classes in the order of the model's head, which may know them already; empty where there are
    none."""
    tasks: str | None = None
    """sha256 of the frozen tasks, `tasks-<sha256>.json` beside dataset.json."""
    prompts: str | None = None
    """sha256 of the prompts that are judged, `prompts-<sha256>.json` beside dataset.json."""


def write_out(ids: Iterable[int], pieces: Sequence[Sequence[int]], base_vocab_size: int) -> list[int]:
    """Token ids with each new token as its pieces: what the model's own tokenizer makes of the same text.

    Args:
        ids: of a tokenizer with more tokens.
        pieces: of each new one, in order of id.
        base_vocab_size: the id of the first new one.
    """
    return [base_id for id_ in ids for base_id in ((id_,) if id_ < base_vocab_size else pieces[id_ - base_vocab_size])]


def read_resolved(output: Location) -> Resolved:
    """What prepare resolved for the run at this output.

    Raises:
        NotFound: prepare has not finished.
    """
    return Resolved.model_validate_json((output / "resolved.json").get().data)


def open_dataset(manifest: Location, cache_dir: Path, sha256: str | None = None, labels: Sequence[str] = ()) -> Dataset:
    """The dataset that a dataset.json describes; shards are kept in `cache_dir`, which the ranks of a node share.

    Args:
        manifest: dataset.json.
        cache_dir: where shards are kept.
        sha256: of dataset.json, where it is known.
        labels: its classes in another order.

    Raises:
        NotFound: there is no such dataset.json.
        UserError: DATA_ERROR where its bytes have not the given sha256.
    """
    data = manifest.get().data
    check_sha256(manifest, hashlib.sha256(data).hexdigest(), sha256)
    cache_dir.mkdir(parents=True, exist_ok=True)
    info = DatasetInfo.model_validate_json(data)
    assert not labels or set(labels) == set(info.labels), (labels, info.labels)
    return Dataset(manifest.parent, info.model_copy(update={"labels": list(labels) or info.labels}), cache_dir)


class Dataset:
    """The streams of a dataset.json."""

    def __init__(self, location: Location, info: DatasetInfo, cache_dir: Path) -> None:
        self.location = location
        self.info = info
        self._cache_dir = cache_dir
        self._streams: dict[str, Stream] = {}

    def in_base_tokens(self) -> Dataset:
        """What is held out, as the model's own tokenizer cuts it."""
        changes = {"vocab_size": self.info.base_vocab_size, "new_tokens": [], "streams": self.info.base_streams}
        return Dataset(self.location, self.info.model_copy(update=changes), self._cache_dir)

    def examples(self, name: str) -> Examples:
        """The rows of a stream that was written as such; one that was not prepared is empty."""
        return Examples(self.location, self.info.streams.get(name, StreamInfo()), self._cache_dir)

    def stream(self, name: str) -> Stream:
        """`train`, `replay`, `validation` or `general`; one that was not prepared is empty."""
        if name not in self._streams:
            info = self.info.streams.get(name, StreamInfo())
            shards = [_Shard(self.location, shard, self.info.dtype, self._cache_dir) for shard in info.shards]
            self._streams[name] = Stream(info, shards, self.info.eos_token_id)
        return self._streams[name]
