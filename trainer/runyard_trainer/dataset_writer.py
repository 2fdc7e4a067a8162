"""Write the streams of a dataset: records become examples, and those become shards; dataset.json is written last."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runyard_trainer.checks import check_model, has_token_types
from runyard_trainer.contract import MASKED_OBJECTIVES, Recipe
from runyard_trainer.encoder_tokenizers import train_encoder_tokenizer
from runyard_trainer.examples import ExampleWriter
from runyard_trainer.progress_log import ProgressLog
from runyard_trainer.records import HELD_OUT_STREAMS, Encoder, RecordKind, kind_of
from runyard_trainer.shard_files import StreamInfo
from runyard_trainer.shards import DatasetInfo, ShardWriter, token_dtype
from runyard_trainer.sources import SourceFile, read_records
from runyard_trainer.storage import Location, PreconditionFailed, open_store
from runyard_trainer.tokenizer import DocumentTokenizer, load_tokenizer, train_tokenizer

_ENCODED_BYTES = 1 << 20
"""Text that is tokenized at once."""

log = logging.getLogger(__name__)

Files = dict[str, list[SourceFile]]
"""What to read: `train`, `replay` and `general`. The stream `validation` is a part of the first."""


def write_dataset(location: Location, recipe: Recipe, files: Files, scratch_dir: Path) -> bytes:
    """Tokenize everything; returns dataset.json as it now lies there."""
    tokenizer = make_tokenizer(recipe, files["train"], scratch_dir)
    for path in sorted(tokenizer.folder.iterdir()):
        (location / "tokenizer" / path.name).upload_file(path)
    encoders = {stream: kind_of(recipe, stream).build_encoder(tokenizer, recipe) for stream in ("train", "general")}
    streams: dict[str, StreamInfo] = {}
    num_skipped = 0
    for stream, listed in files.items():
        kind, encoder = kind_of(recipe, stream), encoders["general" if stream == "general" else "train"]

        def open_writer(name: str, kind: RecordKind = kind, encoder: Encoder = encoder) -> StreamWriter:
            return StreamWriter(location, name, kind, encoder, token_dtype(tokenizer.vocab_size), scratch_dir)

        writers = {stream: open_writer(stream)}
        held_out_fraction = recipe.data.validation.fraction if stream == "train" else 0
        if held_out_fraction > 0:
            writers["validation"] = open_writer("validation")
        for record in _read_logged(listed, kind, f"tokenizing {stream}"):
            identity = kind.identity(record)
            if identity.strip():
                writers["validation" if is_held_out(identity, held_out_fraction) else stream].add(record)
            else:
                num_skipped += 1
        streams |= {name: writer.finish() for name, writer in writers.items()}
    info = DatasetInfo(
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        streams=streams,
        skipped_documents=num_skipped,
        **encoders["train"].describe(),
    )
    return _commit(location / "dataset.json", info, recipe.storage.fencing == "conditional-writes")


def make_tokenizer(recipe: Recipe, train_files: Sequence[SourceFile], scratch_dir: Path) -> DocumentTokenizer:
    """Train one on what is trained on (nothing held out), or read the one that is there."""
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    training = recipe.model.scratch.tokenizer.train if recipe.model.scratch is not None else None
    if training is None:
        source, field = tokenizer_source(recipe)
        return load_tokenizer(source, folder, field)
    kind = kind_of(recipe, "train")
    fraction = recipe.data.validation.fraction
    read = (kind.identity(record) for record in _read_logged(train_files, kind, "training the tokenizer"))
    texts = (text for text in read if not is_held_out(text, fraction))
    if recipe.objective in MASKED_OBJECTIVES:
        return train_encoder_tokenizer(texts, training, has_token_types(check_model(recipe)), folder)
    return train_tokenizer(texts, training.vocab_size, folder)


def tokenizer_source(recipe: Recipe) -> tuple[Location, str]:
    """Where a tokenizer that is there lies, and the field that says so."""
    scratch = recipe.model.scratch
    uri, field = (
        (recipe.model.uri, "model.uri") if scratch is None else (scratch.tokenizer.uri, "model.scratch.tokenizer.uri")
    )
    assert uri is not None, "the contract holds exactly one of train and uri"
    return open_store(uri, recipe.storage, field), field


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a record is for validation: a function of its text, so that copies of it stay on one side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def total_bytes(files: Sequence[SourceFile]) -> int:
    """As they lie in storage."""
    return sum(file.size_bytes for file in files)


class StreamWriter:
    """Encodes the records of one stream in batches, and keeps those held out where a person may want to read them."""

    def __init__(
        self, location: Location, stream: str, kind: RecordKind, encoder: Encoder, dtype: str, scratch_dir: Path
    ) -> None:
        self._kind = kind
        self._encoder = encoder
        self._shards = (
            ShardWriter(location, stream, dtype)
            if encoder.schema is None
            else ExampleWriter(location, stream, encoder.schema)
        )
        self._record_location = location / f"{stream}.jsonl"
        self._record_path = scratch_dir / f"{stream}.jsonl" if stream in HELD_OUT_STREAMS else None
        self._records: list[Any] = []
        self._waiting_bytes = 0
        self._num_truncated = 0
        self._num_dropped = 0
        self._text_bytes = 0

    def add(self, record: Any) -> None:
        """Append a record with text."""
        self._records.append(record)
        self._waiting_bytes += len(self._kind.identity(record))
        if self._waiting_bytes >= _ENCODED_BYTES:
            self._flush()

    def finish(self) -> StreamInfo:
        """Upload what is left."""
        self._flush()
        if self._record_path is not None:
            self._record_location.upload_file(self._record_path)
        counts = {"bytes": self._text_bytes, "truncated": self._num_truncated, "dropped": self._num_dropped}
        return self._shards.finish().model_copy(update=counts)

    def _flush(self) -> None:
        for examples in self._encoder.encode(self._records):
            self._num_dropped += not examples
            for example in examples:
                self._shards.add(example.columns)
                self._num_truncated += example.is_truncated
                self._text_bytes += example.text_bytes
        if self._record_path is not None:
            with self._record_path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(self._kind.to_json(record), ensure_ascii=False) + "\n" for record in self._records
                )
        self._records, self._waiting_bytes = [], 0


def _read_logged(files: Sequence[SourceFile], kind: RecordKind, what: str) -> Iterator[Any]:
    with ProgressLog(log, what, total_bytes(files)) as progress:
        for record in read_records(files, kind.parse, progress.advance):
            progress.count_document()
            yield record


def _commit(manifest: Location, info: DatasetInfo, is_fenced: bool) -> bytes:
    """Write dataset.json, unless another run has: then its own stands, for it was made from the same."""
    data = info.to_json().encode()
    try:
        manifest.put(data, if_none_match=is_fenced)
    except PreconditionFailed:
        return manifest.get().data
    return data
