"""Write the streams of a dataset: records become examples, and those become shards; dataset.json is written last."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from runyard_trainer.checks import check_model, has_token_types
from runyard_trainer.choosing import choose_documents
from runyard_trainer.contract import MASKED_OBJECTIVES, Recipe
from runyard_trainer.encoder_tokenizers import train_encoder_tokenizer
from runyard_trainer.examples import ExampleWriter
from runyard_trainer.fertility import FertilityCounter
from runyard_trainer.progress_log import ProgressLog
from runyard_trainer.records import COMPARED, HELD_OUT_STREAMS, Encoder, RecordKind, kind_of
from runyard_trainer.records.text import TokenIds
from runyard_trainer.screening import HeldOut, Reason, Screen, is_held_out
from runyard_trainer.shard_files import SourceCount, StreamInfo
from runyard_trainer.shards import DatasetInfo, ShardWriter, token_dtype
from runyard_trainer.sources import Problem, Row, SourceFile, list_sources, read_records
from runyard_trainer.storage import Location, PreconditionFailed, open_store
from runyard_trainer.tokenizer import DocumentTokenizer, load_tokenizer, train_tokenizer

_ENCODED_BYTES = 1 << 20
"""Text that is tokenized at once."""

_LOGGED_ROWS = 10
"""Of those that are left out, for somebody to see what they are like."""

log = logging.getLogger(__name__)

T = TypeVar("T")

Files = dict[str, list[SourceFile]]
"""What to read: `train`, `replay`, `general`, `validation` where it is not a part of the first, and `target` and
`reference`, which choosing compares with."""


def list_files(recipe: Recipe) -> Files:
    """Every file to read, by stream."""
    files = {"train": list_sources(recipe.data.train, recipe.storage, "data.train")}
    if recipe.data.replay is not None and recipe.data.replay.sources is not None:
        files["replay"] = list_sources(recipe.data.replay.sources, recipe.storage, "data.replay.sources")
    if recipe.data.validation.sources is not None:
        listed = list_sources(recipe.data.validation.sources, recipe.storage, "data.validation.sources")
        files["validation"] = listed
    if recipe.evaluation.general:
        files["general"] = list_sources(recipe.evaluation.general, recipe.storage, "evaluation.general")
    if (select := recipe.data.select) is not None:
        for name, sources in zip(COMPARED, (select.target, select.reference), strict=True):
            if sources is not None:
                files[name] = list_sources(sources, recipe.storage, f"data.select.{name}")
    return files


def write_dataset(location: Location, recipe: Recipe, files: Files, scratch_dir: Path) -> bytes:
    """Tokenize everything; returns dataset.json as it now lies there."""
    held_out = gather_held_out(recipe, files)
    tokenizer = make_tokenizer(recipe, files, held_out, scratch_dir)
    encoders = {stream: kind_of(recipe, stream).build_encoder(tokenizer, recipe) for stream in ("train", "general")}
    verdicts = choose(recipe, files, held_out, tokenizer, scratch_dir)
    screen = Screen(recipe.data, held_out)
    streams: dict[str, StreamInfo] = {}
    for stream, listed in files.items():
        if stream in COMPARED:
            continue
        kind, encoder = kind_of(recipe, stream), encoders["general" if stream == "general" else "train"]

        def open_writer(name: str, kind: RecordKind = kind, encoder: Encoder = encoder) -> StreamWriter:
            return StreamWriter(location, name, kind, encoder, tokenizer, scratch_dir)

        writers = {stream: open_writer(stream)}
        held_out_fraction = recipe.data.validation.held_out_fraction if stream == "train" else 0
        if held_out_fraction > 0:
            writers["validation"] = open_writer("validation")
        count_invalid = partial(writers[stream].leave_out, "invalid")
        parse = partial(_parse_with_source, kind)
        for source, record in read_stream(listed, parse, recipe, f"tokenizing {stream}", count_invalid):
            identity = kind.identity(record)
            writer = writers["validation" if is_held_out(identity, held_out_fraction) else stream]
            reason = screen.reason(writer.stream, identity, kind.to_json(record))
            if reason is None and writer.stream == "train":
                reason = next(verdicts)
            if reason is not None:
                writer.leave_out(reason)
            else:
                writer.add(record, source)
        streams |= {name: writer.finish() for name, writer in writers.items()}
    for path in sorted(tokenizer.folder.iterdir()):  # only now: an encoder may have given it a chat template
        (location / "tokenizer" / path.name).upload_file(path)
    info = DatasetInfo(
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        streams=streams,
        **encoders["train"].describe(),
    )
    return _commit(location / "dataset.json", info, recipe.storage.fencing == "conditional-writes")


def gather_held_out(recipe: Recipe, files: Files) -> HeldOut:
    """Read what is held out, before anything else and as far as it takes that to keep it out of what is trained on."""
    data, held_out = recipe.data, HeldOut(recipe.data)
    kind, what = kind_of(recipe, "validation"), "looking at held-out data"
    if "validation" in files:
        for record in read_stream(files["validation"], kind.parse, recipe, what):
            held_out.add_validation(kind.identity(record))
    fraction = data.validation.held_out_fraction
    if fraction > 0 and (data.decontaminate is not None or data.deduplicate == "near"):
        for record in read_stream(files["train"], kind.parse, recipe, what):
            if is_held_out(identity := kind.identity(record), fraction):
                held_out.add_validation(identity)
    if "general" in files and data.decontaminate is not None:
        kind = kind_of(recipe, "general")
        for record in read_stream(files["general"], kind.parse, recipe, what):
            held_out.add_general(kind.identity(record))
    return held_out


def make_tokenizer(recipe: Recipe, files: Files, held_out: HeldOut, scratch_dir: Path) -> DocumentTokenizer:
    """Train one on what may be trained on (nothing held out), or read the one that is there."""
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    training = recipe.model.scratch.tokenizer.train if recipe.model.scratch is not None else None
    if training is None:
        source, field = tokenizer_source(recipe)
        return load_tokenizer(source, folder, field)
    kind = kind_of(recipe, "train")
    learned = kind.tokenizer_text if kind.tokenizer_text is not None else kind.identity
    texts = map(learned, _read_candidates(recipe, files, held_out, "training the tokenizer"))
    if recipe.objective in MASKED_OBJECTIVES:
        return train_encoder_tokenizer(texts, training, has_token_types(check_model(recipe)), folder)
    return train_tokenizer(texts, training.vocab_size, folder)


def choose(
    recipe: Recipe, files: Files, held_out: HeldOut, tokenizer: DocumentTokenizer, scratch_dir: Path
) -> Iterator[Reason | None]:
    """Of each record of `data.train` that may be trained on, in order, why it is not: what `data.select` says."""
    select = recipe.data.select
    if select is None:
        return repeat(None)

    def read(stream: str, what: str) -> Iterator[str]:
        kind = kind_of(recipe, stream)
        records = read_stream(files.get(stream, ()), kind.parse, recipe, what)
        return (text for record in records if (text := text_of(kind, record, tokenizer)).strip())

    candidates = _read_candidates(recipe, files, held_out, "choosing from data.train")
    kind = kind_of(recipe, "train")
    verdicts = choose_documents(
        select,
        recipe.training.seed,
        (text_of(kind, record, tokenizer) for record in candidates),
        read("target", "reading data.select.target"),
        read("reference" if "reference" in files else "replay", "reading text that the model knows"),
        tokenizer,
        scratch_dir,
    )
    return iter(verdicts)


def text_of(kind: RecordKind, record: Any, tokenizer: DocumentTokenizer) -> str:
    """What a record says, also where it came as token ids."""
    return tokenizer.decode(record.ids) if isinstance(record, TokenIds) else kind.identity(record)


def _read_candidates(recipe: Recipe, files: Files, held_out: HeldOut, what: str) -> Iterator[Any]:
    """The records of `data.train` that may be trained on."""
    kind, fraction = kind_of(recipe, "train"), recipe.data.validation.held_out_fraction
    screen = Screen(recipe.data, held_out)
    for record in read_stream(files["train"], kind.parse, recipe, what):
        identity = kind.identity(record)
        if not is_held_out(identity, fraction) and not screen.reason("train", identity, kind.to_json(record)):
            yield record


def tokenizer_source(recipe: Recipe) -> tuple[Location, str]:
    """Where a tokenizer that is there lies, and the field that says so."""
    scratch = recipe.model.scratch
    uri, field = (
        (recipe.model.uri, "model.uri") if scratch is None else (scratch.tokenizer.uri, "model.scratch.tokenizer.uri")
    )
    assert uri is not None, "the contract holds exactly one of train and uri"
    return open_store(uri, recipe.storage, field), field


def total_bytes(files: Sequence[SourceFile]) -> int:
    """As they lie in storage."""
    return sum(file.size_bytes for file in files)


class StreamWriter:
    """Encodes the records of one stream in batches, and keeps those held out where a person may want to read them."""

    def __init__(
        self,
        location: Location,
        stream: str,
        kind: RecordKind,
        encoder: Encoder,
        tokenizer: DocumentTokenizer,
        scratch_dir: Path,
    ) -> None:
        self.stream = stream
        self._kind = kind
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._fertility = FertilityCounter(tokenizer)
        self._shards = (
            ShardWriter(location, stream, token_dtype(tokenizer.vocab_size))
            if encoder.schema is None
            else ExampleWriter(location, stream, encoder.schema)
        )
        self._record_location = location / f"{stream}.jsonl"
        self._record_path = scratch_dir / f"{stream}.jsonl" if stream in HELD_OUT_STREAMS else None
        self._records: list[Any] = []
        self._sources: list[int] = []
        """Of each of these records."""
        self._waiting_bytes = 0
        self._num_truncated = 0
        self._num_dropped = 0
        self._left_out: Counter[Reason] = Counter()
        self._text_bytes = 0
        self._source_documents: Counter[int] = Counter()
        self._source_tokens: Counter[int] = Counter()

    def add(self, record: Any, source: int) -> None:
        """Append a record with text, of the source with this number."""
        self._records.append(record)
        self._sources.append(source)
        self._waiting_bytes += len(self._kind.identity(record))
        if self._waiting_bytes >= _ENCODED_BYTES:
            self._flush()

    def leave_out(self, reason: Reason) -> None:
        """Count a record, or a row that is none, that is not to be in the stream."""
        self._left_out[reason] += 1

    def finish(self) -> StreamInfo:
        """Upload what is left."""
        self._flush()
        if self._record_path is not None:
            self._record_location.upload_file(self._record_path)
        counts = {
            "bytes": self._text_bytes,
            "truncated": self._num_truncated,
            "dropped": self._num_dropped,
            "fertility": self._fertility.tell(),
            "left_out": dict(sorted(self._left_out.items())),
            "by_source": [
                SourceCount(documents=self._source_documents[source], tokens=self._source_tokens[source])
                for source in range(max(self._source_documents, default=-1) + 1)
            ],
        }
        return self._shards.finish().model_copy(update=counts)

    def _flush(self) -> None:
        for source, examples in zip(self._sources, self._encoder.encode(self._records), strict=True):
            self._num_dropped += not examples
            for example in examples:
                self._source_documents[source] += 1
                self._source_tokens[source] += len(example.columns["input_ids"])
                self._shards.add(example.columns)
                self._num_truncated += example.is_truncated
                self._text_bytes += example.text_bytes
        if self._record_path is not None:
            self._fertility.add([text_of(self._kind, record, self._tokenizer) for record in self._records])
            with self._record_path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(self._kind.to_json(record), ensure_ascii=False) + "\n" for record in self._records
                )
        self._records, self._sources, self._waiting_bytes = [], [], 0


def read_stream(
    files: Sequence[SourceFile],
    parse: Callable[[Row], T],
    recipe: Recipe,
    what: str,
    on_invalid: Callable[[], object] = lambda: None,
) -> Iterator[T]:
    """The records of a stream's files; `on_invalid` is told of each row that is left out, as the recipe allows."""
    num_dropped = 0

    def drop(problem: Problem) -> None:
        nonlocal num_dropped
        num_dropped += 1
        if num_dropped <= _LOGGED_ROWS:
            log.warning("left out: %s", problem.text)
        on_invalid()

    on_dropped = drop if recipe.data.invalid_rows == "Drop" else None
    with ProgressLog(log, what, total_bytes(files)) as progress:
        for record in read_records(files, parse, progress.advance, on_dropped):
            progress.count_document()
            yield record


def _parse_with_source(kind: RecordKind, row: Row) -> tuple[int, Any]:
    return row.source, kind.parse(row)


def _commit(manifest: Location, info: DatasetInfo, is_fenced: bool) -> bytes:
    """Write dataset.json, unless another run has: then its own stands, for it was made from the same."""
    data = info.to_json().encode()
    try:
        manifest.put(data, if_none_match=is_fenced)
    except PreconditionFailed:
        return manifest.get().data
    return data
