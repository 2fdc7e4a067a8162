"""List the files that a run reads, with the format of each."""

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
    """One file of a source: an object in storage that holds rows."""

    location: Location
    etag: str
    size_bytes: int
    format: FileFormat
    columns: Columns
    source: int = 0
    """The number of its source in the recipe's list, from 0."""
    record_format: str | None = None
    """The format of its records, where the recipe gives one."""


def list_sources(sources: Sequence[DataSource], storage: Storage, field: str) -> list[SourceFile]:
    """List the files of sources, source by source, in order of name within each.

    Args:
        sources: the sources that the recipe lists.
        storage: how to reach S3.
        field: the path of that list in the recipe, for messages.

    Raises:
        UserError: DATA_ERROR where a source names nothing.
    """
    return [file for i, source in enumerate(sources) for file in list_source(source, i, storage, f"{field}[{i}].uri")]


def list_source(source: DataSource, number: int, storage: Storage, field: str) -> list[SourceFile]:
    """List the files of one source.

    Args:
        source: the source.
        number: its number in the recipe's list, from 0.
        storage: how to reach S3.
        field: the path of its uri in the recipe, for messages.

    Raises:
        UserError: DATA_ERROR where the source names nothing.
    """
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
