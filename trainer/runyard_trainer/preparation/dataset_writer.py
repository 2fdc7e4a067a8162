"""Write the streams of a dataset: records become examples, and those become shards; dataset.json is written last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.dataset.token_shards import token_dtype
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Encoder
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer
from runyard_trainer.models.folder import digest_of
from runyard_trainer.preparation.fates import DecidedStreams, open_excerpts, select_documents
from runyard_trainer.preparation.stream_writer import BASE_PREFIX, StreamWriter
from runyard_trainer.preparation.tokenizer import make_tokenizer
from runyard_trainer.storage.base import Location, PreconditionFailed


def write_dataset(location: Location, recipe: Recipe, decided: DecidedStreams, scratch_dir: Path) -> bytes:
    """Tokenize the records of all streams; returns dataset.json as it is stored."""
    with open_excerpts(recipe, scratch_dir) as excerpts:
        tokenizer = make_tokenizer(recipe, decided, excerpts, scratch_dir)
        run = _Tokenization(recipe, tokenizer, _build_encoders(recipe, tokenizer))
        base = tokenizer.base
        base_run = _Tokenization(recipe, base, _build_encoders(recipe, base)) if base is not None else None
        select_documents(decided, excerpts, tokenizer)
    streams: dict[str, StreamInfo] = {}
    base_streams: dict[str, StreamInfo] = {}
    for stream in decided.names:
        writers = {name: run.open_writer(location, name, scratch_dir) for name in _written_from(stream, recipe)}
        base_writers = {
            name: base_run.open_writer(location, name, scratch_dir, BASE_PREFIX)
            for name in writers
            if base_run is not None and name in HELD_OUT_STREAMS
        }
        _write_records(decided, stream, writers, base_writers)
        streams |= {name: writer.finish() for name, writer in writers.items()}
        base_streams |= {name: writer.finish() for name, writer in base_writers.items()}
    for path in sorted(tokenizer.folder.iterdir()):  # only now: an encoder may have given it a chat template
        (location / "tokenizer" / path.name).upload_file(path)
    info = DatasetInfo(
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tokenizer_digest=digest_of(tokenizer.folder),
        new_tokens=[list(pieces) for pieces in tokenizer.pieces],
        streams={name: _add_base_fertility(stream, base_streams.get(name)) for name, stream in streams.items()},
        base_streams=base_streams,
        **run.encoders["train"].describe(),
    )
    return _commit(location / "dataset.json", info, recipe.storage.fencing == "conditional-writes")


@dataclass(frozen=True)
class _Tokenization:
    """A tokenizer, and the encoders of the streams that use it."""

    recipe: Recipe
    tokenizer: DocumentTokenizer
    encoders: dict[str, Encoder]

    def open_writer(self, location: Location, stream: str, scratch_dir: Path, prefix: str = "") -> StreamWriter:
        kind, encoder = kind_of(self.recipe, stream), self.encoders[stream]
        return StreamWriter(location, f"{prefix}{stream}", kind, encoder, self.tokenizer, scratch_dir)


def _build_encoders(recipe: Recipe, tokenizer: DocumentTokenizer) -> dict[str, Encoder]:
    """Build the encoder of each stream; the streams of the objective's own records share one."""
    own, general = (kind_of(recipe, stream).build_encoder(tokenizer, recipe) for stream in ("train", "general"))
    return {"train": own, "replay": own, "validation": own, "general": general}


def _written_from(stream: str, recipe: Recipe) -> list[str]:
    """Name the streams that the records of one may go to."""
    is_split = stream == "train" and recipe.data.validation.held_out_fraction > 0
    return [stream, "validation"] if is_split else [stream]


def _write_records(
    decided: DecidedStreams,
    stream: str,
    writers: Mapping[str, StreamWriter],
    base_writers: Mapping[str, StreamWriter],
) -> None:
    for each in decided.read(stream, f"tokenizing {stream}"):
        name = each.fate.stream
        if each.fate.left_out is not None:
            writers[name].leave_out(each.fate.left_out)
            continue
        writers[name].add(each.record, each.source)
        if name in base_writers:
            base_writers[name].add(each.record, each.source)


def _add_base_fertility(stream: StreamInfo, base_stream: StreamInfo | None) -> StreamInfo:
    if stream.fertility is None or base_stream is None or base_stream.fertility is None:
        return stream
    base = base_stream.fertility
    changes = {"base_tokens_per_word": base.tokens_per_word, "base_bytes_per_token": base.bytes_per_token}
    return stream.model_copy(update={"fertility": stream.fertility.model_copy(update=changes)})


def _commit(manifest: Location, info: DatasetInfo, is_fenced: bool) -> bytes:
    """Write dataset.json, unless another run has: then its own stands, for it was made from the same files."""
    data = info.to_json().encode()
    try:
        manifest.put(data, if_none_match=is_fenced)
    except PreconditionFailed:
        return manifest.get().data
    return data
