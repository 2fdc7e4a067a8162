"""Read dataset.json and resolved.json, and open the dataset that they describe."""

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
    """The contents of dataset.json."""

    dtype: str
    """The type of token ids in shards: uint16 or uint32."""
    vocab_size: int
    eos_token_id: int
    """The token that ends each document, and pads packed text."""
    pad_token_id: int | None = None
    """The token that pads examples."""
    cls_token_id: int | None = None
    """The token that begins an example of a masked objective; the three fields below too are of masked objectives."""
    sep_token_id: int | None = None
    """The token that ends each text of such an example."""
    mask_token_id: int | None = None
    """The token that stands for a masked one."""
    special_token_ids: list[int] = Field(default_factory=list)
    """Tokens that are no text: never masked, and never put in place of text."""
    streams: dict[str, StreamInfo]
    labels: list[str] = Field(default_factory=list)
    """The classes of a classification, in the order of their numbers."""
    is_multi_label: bool = False
    """Whether a text may have any number of them."""
    stop_token_ids: list[int] = Field(default_factory=list)
    """The tokens that an answer may end with."""
    tokenizer_digest: str = ""
    """The digest of the files in `tokenizer/`, computed as a model folder's is."""
    new_tokens: list[list[int]] = Field(default_factory=list)
    """For each token that was added to the model's own tokenizer, in order of id, the tokens that it joins; added ones
    have the last ids of the vocabulary."""
    base_streams: dict[str, StreamInfo] = Field(default_factory=dict)
    """The held-out streams once more, in tokens of the model's own tokenizer, where tokens were added to it."""

    @property
    def base_vocab_size(self) -> int:
        """The vocabulary of the model's own tokenizer, without added tokens."""
        return self.vocab_size - len(self.new_tokens)

    def write_out(self, ids: Iterable[int]) -> list[int]:
        """Replace each added token by the tokens that it joins."""
        return write_out(ids, self.new_tokens, self.base_vocab_size)


class Resolved(Report):
    """The contents of resolved.json: what prepare leaves beside the output for the attempts."""

    dataset: str
    """The URI of dataset.json."""
    sha256: str
    """The sha256 of dataset.json."""
    resolved: dict[str, str]
    """The values that were automatic, as text by name."""
    labels: list[str] = Field(default_factory=list)
    """The dataset's classes in the order of the model's head, which may have been trained on them already."""
    tasks: str | None = None
    """The sha256 of the frozen tasks, `tasks-<sha256>.json` beside dataset.json."""
    prompts: str | None = None
    """The sha256 of the prompts for the judge, `prompts-<sha256>.json` beside dataset.json."""


def write_out(ids: Iterable[int], pieces: Sequence[Sequence[int]], base_vocab_size: int) -> list[int]:
    """Replace each added token by its pieces: the result is how the model's own tokenizer cuts the same text.

    Args:
        ids: the token ids of the extended tokenizer.
        pieces: for each added token, in order of id, the tokens that it joins.
        base_vocab_size: the id of the first added token.
    """
    return [base_id for id_ in ids for base_id in ((id_,) if id_ < base_vocab_size else pieces[id_ - base_vocab_size])]


def read_resolved(output: Location) -> Resolved:
    """Read what prepare resolved for the run at this output.

    Raises:
        NotFound: prepare has not finished.
    """
    return Resolved.model_validate_json((output / "resolved.json").get().data)


def open_dataset(manifest: Location, cache_dir: Path, sha256: str | None = None, labels: Sequence[str] = ()) -> Dataset:
    """Open the dataset that a dataset.json describes.

    Args:
        manifest: the dataset.json.
        cache_dir: the folder for downloaded shards, which the ranks of a node share.
        sha256: the expected sha256 of dataset.json, if it is known.
        labels: the dataset's classes in the order to use, if it is another one.

    Raises:
        NotFound: there is no such dataset.json.
        UserError: DATA_ERROR where dataset.json has another sha256.
    """
    data = manifest.get().data
    check_sha256(manifest, hashlib.sha256(data).hexdigest(), sha256)
    cache_dir.mkdir(parents=True, exist_ok=True)
    info = DatasetInfo.model_validate_json(data)
    assert not labels or set(labels) == set(info.labels), (labels, info.labels)
    return Dataset(manifest.parent, info.model_copy(update={"labels": list(labels) or info.labels}), cache_dir)


class Dataset:
    """A prepared dataset: the streams of a dataset.json."""

    def __init__(self, location: Location, info: DatasetInfo, cache_dir: Path) -> None:
        self.location = location
        self.info = info
        self._cache_dir = cache_dir
        self._streams: dict[str, Stream] = {}

    def in_base_tokens(self) -> Dataset:
        """Return the dataset of the held-out streams in tokens of the model's own tokenizer."""
        changes = {"vocab_size": self.info.base_vocab_size, "new_tokens": [], "streams": self.info.base_streams}
        return Dataset(self.location, self.info.model_copy(update=changes), self._cache_dir)

    def examples(self, name: str) -> Examples:
        """Return the examples of a stream of examples; empty if the stream was not prepared."""
        return Examples(self.location, self.info.streams.get(name, StreamInfo()), self._cache_dir)

    def stream(self, name: str) -> Stream:
        """Return the documents of a stream of text, such as `validation`; empty if the stream was not prepared."""
        if name not in self._streams:
            info = self.info.streams.get(name, StreamInfo())
            shards = [_Shard(self.location, shard, self.info.dtype, self._cache_dir) for shard in info.shards]
            self._streams[name] = Stream(info, shards, self.info.eos_token_id)
        return self._streams[name]
