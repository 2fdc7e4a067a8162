"""Write the streams of a dataset: records become examples, and those become shards; dataset.json is written last."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.objectives import MASKED_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.dataset.token_shards import token_dtype
from runyard_trainer.data.filters.screening import HeldOut, Reason, Screen, is_held_out
from runyard_trainer.data.filters.selection import choose_documents
from runyard_trainer.data.records.base import HELD_OUT_STREAMS, Encoder, RecordKind
from runyard_trainer.data.records.kinds import COMPARED, kind_of
from runyard_trainer.data.sources.listing import SourceFile, list_sources
from runyard_trainer.data.sources.reading import read_records
from runyard_trainer.data.sources.rows import Problem, Row
from runyard_trainer.data.tokenizers.encoders import train_encoder_tokenizer
from runyard_trainer.data.tokenizers.extension import extend_tokenizer, sample_texts
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, load_tokenizer, train_tokenizer
from runyard_trainer.models.config import check_model, has_token_types
from runyard_trainer.models.folder import digest_of
from runyard_trainer.preparation.progress_log import ProgressLog
from runyard_trainer.preparation.stream_writer import BASE_PREFIX, StreamWriter, text_of
from runyard_trainer.storage.base import Location, PreconditionFailed
from runyard_trainer.storage.open import open_store

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
    if recipe.data.select is not None:
        for name, sources in recipe.data.select.compared.items():
            files[name] = list_sources(sources, recipe.storage, f"data.select.{name}")
    return files


def write_dataset(location: Location, recipe: Recipe, files: Files, scratch_dir: Path) -> bytes:
    """Tokenize everything; returns dataset.json as it now lies there."""
    held_out = gather_held_out(recipe, files)
    tokenizer = make_tokenizer(recipe, files, held_out, scratch_dir)
    encoders = _build_encoders(recipe, tokenizer)
    base_encoders = _build_encoders(recipe, tokenizer.base) if tokenizer.base is not None else {}
    verdicts = choose(recipe, files, held_out, tokenizer, scratch_dir)
    screen = Screen(recipe.data, held_out)
    streams: dict[str, StreamInfo] = {}
    base_streams: dict[str, StreamInfo] = {}
    for stream, listed in files.items():
        if stream in COMPARED:
            continue
        kind = kind_of(recipe, stream)
        names = [stream, "validation"] if stream == "train" and recipe.data.validation.held_out_fraction else [stream]
        writers, base_writers = {}, {}
        for name in names:
            writers[name] = StreamWriter(location, name, kind, encoders[name], tokenizer, scratch_dir)
            if tokenizer.base is not None and name in HELD_OUT_STREAMS:
                base_name, encoder = f"{BASE_PREFIX}{name}", base_encoders[name]
                base_writers[name] = StreamWriter(location, base_name, kind, encoder, tokenizer.base, scratch_dir)
        held_out_fraction = recipe.data.validation.held_out_fraction if stream == "train" else 0
        count_invalid = partial(writers[stream].leave_out, "invalid")
        parse = partial(_parse_with_source, kind)
        for source, record in read_stream(listed, parse, recipe, f"tokenizing {stream}", count_invalid):
            identity = kind.identity(record)
            name = "validation" if is_held_out(identity, held_out_fraction) else stream
            reason = screen.reason(name, identity, kind.to_json(record))
            if reason is None and name == "train":
                reason = next(verdicts)
            if reason is not None:
                writers[name].leave_out(reason)
                continue
            writers[name].add(record, source)
            if name in base_writers:
                base_writers[name].add(record, source)
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
        streams={name: _tell_base_fertility(stream, base_streams.get(name)) for name, stream in streams.items()},
        base_streams=base_streams,
        **encoders["train"].describe(),
    )
    return _commit(location / "dataset.json", info, recipe.storage.fencing == "conditional-writes")


def _build_encoders(recipe: Recipe, tokenizer: DocumentTokenizer) -> dict[str, Encoder]:
    """By stream; those of the objective's own records share one."""
    own, general = (kind_of(recipe, stream).build_encoder(tokenizer, recipe) for stream in ("train", "general"))
    return {"train": own, "replay": own, "validation": own, "general": general}


def _tell_base_fertility(stream: StreamInfo, base_stream: StreamInfo | None) -> StreamInfo:
    if stream.fertility is None or base_stream is None or base_stream.fertility is None:
        return stream
    base = base_stream.fertility
    changes = {"base_tokens_per_word": base.tokens_per_word, "base_bytes_per_token": base.bytes_per_token}
    return stream.model_copy(update={"fertility": stream.fertility.model_copy(update=changes)})


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
    """Train one on what may be trained on (nothing held out), or read the one that is there, and add to it if asked."""
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    training = recipe.model.scratch.tokenizer.train if recipe.model.scratch is not None else None
    if training is None:
        return _read_tokenizer(recipe, files, held_out, folder)
    texts = _read_learned_text(recipe, files, held_out, "training the tokenizer")
    if recipe.objective in MASKED_OBJECTIVES:
        return train_encoder_tokenizer(texts, training, has_token_types(check_model(recipe)), folder)
    return train_tokenizer(texts, training.vocab_size, folder)


def _read_tokenizer(recipe: Recipe, files: Files, held_out: HeldOut, folder: Path) -> DocumentTokenizer:
    source, field = tokenizer_source(recipe)
    extension = recipe.model.extend_vocabulary
    if extension is None:
        return load_tokenizer(source, folder, field)
    base_folder = folder.with_name("tokenizer-base")
    base_folder.mkdir()
    base = load_tokenizer(source, base_folder, field)
    texts = _read_learned_text(recipe, files, held_out, "extending the vocabulary")
    some = sample_texts(texts, total_bytes(files["train"]))
    return extend_tokenizer(base, some, extension.tokens, folder, str(source))


def _read_learned_text(recipe: Recipe, files: Files, held_out: HeldOut, what: str) -> Iterator[str]:
    """What tokens are learned from."""
    kind = kind_of(recipe, "train")
    learned = kind.tokenizer_text if kind.tokenizer_text is not None else kind.identity
    return map(learned, _read_candidates(recipe, files, held_out, what))


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
    return _tell_each(verdicts)


def _tell_each(verdicts: Sequence[Reason | None]) -> Iterator[Reason | None]:
    yield from verdicts
    raise UserError(
        "data.train: its files have changed while data.select chose from them: apply the run again when they are whole",
        ExitCode.DATA_ERROR,
    )


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
