"""Write the streams of a dataset: documents become token ids, and those become shards; dataset.json is written last."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from runyard_trainer.contract import Recipe
from runyard_trainer.progress_log import ProgressLog
from runyard_trainer.shards import DatasetInfo, ShardWriter, StreamInfo, token_dtype
from runyard_trainer.sources import Document, SourceFile, read_documents
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
    streams: dict[str, StreamInfo] = {}
    num_skipped = 0
    for stream, listed in files.items():
        writers = {stream: StreamWriter(location, stream, tokenizer, scratch_dir, keep_text=stream == "general")}
        held_out_fraction = recipe.data.validation.fraction if stream == "train" else 0
        if held_out_fraction > 0:
            writers["validation"] = StreamWriter(location, "validation", tokenizer, scratch_dir, keep_text=True)
        for document in _read_logged(listed, f"tokenizing {stream}"):
            if document.is_empty:
                num_skipped += 1
            else:
                writers["validation" if is_held_out(document.text, held_out_fraction) else stream].add(document)
        streams |= {name: writer.finish() for name, writer in writers.items()}
    info = DatasetInfo(
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        streams=streams,
        skipped_documents=num_skipped,
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
    documents = _read_logged(train_files, "training the tokenizer")
    fraction = recipe.data.validation.fraction
    texts = (document.text for document in documents if not is_held_out(document.text, fraction))
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
    """Whether a document is for validation: a function of its text, so that copies of it stay on one side."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def total_bytes(files: Sequence[SourceFile]) -> int:
    """As they lie in storage."""
    return sum(file.size_bytes for file in files)


class StreamWriter:
    """Tokenizes the documents of one stream in batches, and keeps their text where a person may want to read it."""

    def __init__(
        self, location: Location, stream: str, tokenizer: DocumentTokenizer, scratch_dir: Path, keep_text: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._shards = ShardWriter(location, stream, token_dtype(tokenizer.vocab_size))
        self._text_location = location / f"{stream}.jsonl"
        self._text_path = scratch_dir / f"{stream}.jsonl" if keep_text else None
        self._texts: list[str] = []
        self._waiting_bytes = 0

    def add(self, document: Document) -> None:
        """Append a document with text."""
        self._texts.append(document.text)
        self._waiting_bytes += len(document.text)
        if self._waiting_bytes >= _ENCODED_BYTES:
            self._flush()

    def finish(self) -> StreamInfo:
        """Upload what is left."""
        self._flush()
        if self._text_path is not None:
            self._text_location.upload_file(self._text_path)
        return self._shards.finish()

    def _flush(self) -> None:
        for text, token_ids in zip(self._texts, self._tokenizer.encode(self._texts), strict=True):
            self._shards.add(token_ids, len(text.encode()))
        if self._text_path is not None:
            with self._text_path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in self._texts)
        self._texts = []
        self._waiting_bytes = 0


def _read_logged(files: Sequence[SourceFile], what: str) -> Iterator[Document]:
    with ProgressLog(log, what, total_bytes(files)) as progress:
        for document in read_documents(files, progress.advance):
            progress.count_document()
            yield document


def _commit(manifest: Location, info: DatasetInfo, is_fenced: bool) -> bytes:
    """Write dataset.json, unless another run has: then its own stands, for it was made from the same."""
    data = info.to_json().encode()
    try:
        manifest.put(data, if_none_match=is_fenced)
    except PreconditionFailed:
        return manifest.get().data
    return data
