"""Which files a run reads, and in what format each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runyard_trainer.contract.data import FILE_FORMATS, RECORD_FORMATS, Columns, DataSource, FileFormat
from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.services import Storage
from runyard_trainer.storage.base import Location, NotFound
from runyard_trainer.storage.open import open_store

_ENDINGS = {ending: name for name, traits in FILE_FORMATS.items() for ending in traits.endings}

_RECORD_FORMATS = {name for names in RECORD_FORMATS.values() for name in names}


@dataclass(frozen=True)
class SourceFile:
    """One object with rows."""

    location: Location
    etag: str
    size_bytes: int
    format: FileFormat
    columns: Columns
    source: int = 0
    """Which of the listed sources it is of."""
    record_format: str | None = None
    """What its records are said to be."""


def list_sources(sources: Sequence[DataSource], storage: Storage, field: str) -> list[SourceFile]:
    """The files of the sources, source by source, each in order of name.

    Args:
        sources: what the recipe lists.
        storage: how to reach S3.
        field: path of that list in the recipe, for messages.

    Raises:
        UserError: DATA_ERROR where a source names nothing.
    """
    return [file for i, source in enumerate(sources) for file in list_source(source, i, storage, f"{field}[{i}].uri")]


def list_source(source: DataSource, number: int, storage: Storage, field: str) -> list[SourceFile]:
    """Those of one source, the `number`th; `field` is the path of its uri."""
    location = open_store(source.uri, storage, field)
    try:
        infos = [location.head()] if location.prefix else list(location.list())
    except NotFound:
        infos = list(location.list())
    if not infos:
        raise UserError(
            f"{field}: nothing lies at {source.uri}: it is neither an object nor a prefix with objects below it",
            ExitCode.DATA_ERROR,
        )
    format_ = next((known for known in FILE_FORMATS if known == source.format), None)
    return [
        SourceFile(
            location=Location(location.store, info.key),
            etag=info.etag,
            size_bytes=info.size_bytes,
            format=_format_of(info.key) if format_ is None else format_,
            columns=source.columns,
            source=number,
            record_format=source.format if source.format in _RECORD_FORMATS else None,
        )
        for info in infos
    ]


def _format_of(key: str) -> FileFormat:
    name = key.lower().removesuffix(".gz").removesuffix(".zst")
    return next((format_ for ending, format_ in _ENDINGS.items() if name.endswith(ending)), "text")
