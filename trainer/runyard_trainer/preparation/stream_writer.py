"""Write one stream of a dataset: its records become examples, and those become shards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from runyard_trainer.data.dataset.example_shards import ExampleWriter
from runyard_trainer.data.dataset.manifest import SourceCount, StreamInfo
from runyard_trainer.data.dataset.token_shards import ShardWriter, token_dtype
from runyard_trainer.data.filters.fates import LeftOutReason
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Encoder, RecordKind
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, FertilityCounter
from runyard_trainer.preparation.record_streams import text_of
from runyard_trainer.storage.base import Location

BASE_PREFIX = "base-"
"""Prefix of a held-out stream's name where it is written once more, in tokens of the model's own tokenizer."""

_ENCODED_BYTES = 1 << 20
"""Bytes of text that are tokenized at once."""


class StreamWriter:
    """A stream while it is written: records in, `StreamInfo` out; held-out records are kept as JSONL too."""

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
        self._is_held_out = stream.removeprefix(BASE_PREFIX) in HELD_OUT_STREAMS
        self._record_location = location / f"{stream}.jsonl"
        self._record_path = scratch_dir / f"{stream}.jsonl" if stream in HELD_OUT_STREAMS else None
        self._records: list[Any] = []
        self._sources: list[int] = []
        """The source of each of these records."""
        self._waiting_bytes = 0
        self._num_truncated = 0
        self._num_dropped = 0
        self._left_out: Counter[LeftOutReason] = Counter()
        self._text_bytes = 0
        self._trained_tokens = 0
        self._source_documents: Counter[int] = Counter()
        self._source_tokens: Counter[int] = Counter()

    def add(self, record: Any, source: int) -> None:
        """Append a record of the source with this number."""
        self._records.append(record)
        self._sources.append(source)
        self._waiting_bytes += len(self._kind.identity(record))
        if self._waiting_bytes >= _ENCODED_BYTES:
            self._flush()

    def leave_out(self, reason: LeftOutReason) -> None:
        """Count a record, or a row without one, that is left out of the stream."""
        self._left_out[reason] += 1

    def finish(self) -> StreamInfo:
        """Upload the last records and describe the stream."""
        self._flush()
        if self._record_path is not None:
            self._record_location.upload_file(self._record_path)
        counts = {
            "bytes": self._text_bytes,
            "truncated": self._num_truncated,
            "dropped": self._num_dropped,
            "trained_tokens": self._trained_tokens,
            "fertility": self._fertility.summarize(),
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
                if self._is_held_out:
                    self._trained_tokens += sum(end - start for start, end in self._kind.show(example.columns).spans)
        if self._is_held_out:
            self._fertility.add([text_of(self._kind, record, self._tokenizer) for record in self._records])
        if self._record_path is not None:
            with self._record_path.open("a", encoding="utf-8") as file:
                file.writelines(
                    json.dumps(self._kind.to_json(record), ensure_ascii=False) + "\n" for record in self._records
                )
        self._records, self._sources, self._waiting_bytes = [], [], 0
