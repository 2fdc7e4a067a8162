"""Show people what a run will train on, row by row: from the first rows of each source, before anything is prepared.

    the first rows of each source ─┬─(dataset_writer)─> a small dataset in a scratch folder ─> counts, estimate
                                   └─(fates)─> each row by itself ─> what of it is trained on, or why it is left out

Counts are of these rows alone where a source has more; the estimate is scaled up by the sizes of the files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from runyard_trainer.contract.objectives import Mode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Estimate, Report
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.fates import LEFT_OUT_TEXT, LeftOutReason
from runyard_trainer.data.order import count_epoch
from runyard_trainer.data.records.base import Example, RecordKind
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, resolve_batch
from runyard_trainer.data.sources.reading import MAX_DROPPED_SHARE
from runyard_trainer.data.sources.rows import Problem
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, load_tokenizer
from runyard_trainer.models.config import check_model, check_vocabulary
from runyard_trainer.preparation.dataset_writer import write_dataset
from runyard_trainer.preparation.estimate import estimate_run
from runyard_trainer.preparation.fates import DecidedStreams, open_excerpts, select_documents
from runyard_trainer.preparation.first_rows import FirstRows, FirstRowStreams, read_first_rows
from runyard_trainer.preparation.learnable import check_batch, check_enough_data, check_rate, check_targets
from runyard_trainer.preparation.record_streams import Files, list_files
from runyard_trainer.storage.open import open_store

_SHOWN_ROWS = 3
"""Rows of a stream that are trained on or measured, and are shown."""
_SHOWN_LEFT_OUT = 10
"""Rows of a stream that are left out, and are shown."""
_SHOWN_TOKENS = 256
_RELATIVE: tuple[LeftOutReason, ...] = ("noise", "notSelected")
"""Reasons that depend on all other rows, so that of the first rows alone they are provisional."""


class Piece(Report):
    """Consecutive tokens that are all trained on, or all not."""

    text: str
    trained: bool
    """Whether the loss is taken over it."""


class PreviewRow(Report):
    """A row and what becomes of it."""

    place: str
    """Where the row was read: URI and line."""
    stream: str
    """`train`, `replay`, `validation` or `general`."""
    left_out: str = ""
    """Why the row is in no stream; empty where it is in one."""
    examples: int = 0
    """Examples that are made of the row."""
    tokens: int = 0
    """Tokens of all its examples."""
    trained_tokens: int = 0
    """Tokens among these that the loss is taken over."""
    truncated: bool = False
    """Whether the sequence length cuts any of its examples."""
    target: str = ""
    """What is learned besides tokens, such as the class of a text."""
    pieces: list[Piece] = Field(default_factory=list)
    """The beginning of the first example."""


class Preview(Report):
    """What preview.json holds and `runyard preview` prints."""

    objective: str
    mode: Mode
    is_sample: bool
    """Whether a source has more rows than were read: `streams` counts these only, `estimate` is of all."""
    would_fail: bool = False
    """Whether preparing will refuse the rows that are not valid."""
    streams: dict[str, StreamInfo]
    """The counts of each stream, what was left out of it among them."""
    rows: list[PreviewRow]
    """The first rows of each stream, and the first of those left out."""
    estimate: Estimate


def preview_run(recipe: Recipe) -> Preview:
    """Prepare the first rows of everything that a recipe reads, in a scratch folder, and show them.

    Raises:
        UserError: for all that preparing would refuse, but for rows that are not valid: they are shown.
    """
    config = check_model(recipe)
    check_rate(recipe)
    sources = read_first_rows(recipe, list_files(recipe))
    decided = DecidedStreams(recipe, FirstRowStreams(sources))
    with TemporaryDirectory(prefix="runyard-preview-") as name:
        folder = Path(name)
        location = open_store(f"file://{folder}/data", recipe.storage)
        (folder / "scratch").mkdir()
        write_dataset(location, recipe, decided, folder / "scratch")
        dataset = open_dataset(location / "dataset.json", folder / "cache")
        check_vocabulary(config, dataset.info.base_vocab_size, recipe)
        is_sample = not all(source.is_whole for source in chain(*sources.values()))
        would_fail = any(_is_refused(recipe, of_stream) for of_stream in sources.values())
        epoch, tokens_per_sample = _estimate_epoch(recipe, dataset, sources["train"])
        if not is_sample and not would_fail:
            check_enough_data(dataset, recipe)
            check_targets(dataset, recipe)
            check_batch(recipe, epoch)
        batch = resolve_batch(recipe, epoch)
        steps = count_steps(recipe, batch.sequences, epoch)
        return Preview(
            objective=recipe.objective,
            mode=recipe.mode,
            is_sample=is_sample,
            would_fail=would_fail,
            streams=_count_streams(dataset),
            rows=_show_rows(decided, sources, dataset.info.streams, _load_tokenizer(dataset, folder / "scratch")),
            estimate=estimate_run(recipe, config, dataset.info.vocab_size, steps, batch, tokens_per_sample),
        )


def preview_prepared(recipe: Recipe, files: Files, dataset: Dataset, estimate: Estimate, scratch_dir: Path) -> Preview:
    """Show the counts of a prepared dataset, and the first rows of the files that it was made of."""
    sources = read_first_rows(recipe, files)
    decided = DecidedStreams(recipe, FirstRowStreams(sources))
    tokenizer = _load_tokenizer(dataset, scratch_dir)
    with open_excerpts(recipe, scratch_dir) as excerpts:
        select_documents(decided, excerpts, tokenizer)
    return Preview(
        objective=recipe.objective,
        mode=recipe.mode,
        is_sample=False,
        streams=_count_streams(dataset),
        rows=_show_rows(decided, sources, dataset.info.streams, tokenizer),
        estimate=estimate,
    )


def _load_tokenizer(dataset: Dataset, scratch_dir: Path) -> DocumentTokenizer:
    folder = scratch_dir / "tokenizer-shown"
    folder.mkdir()
    return load_tokenizer(dataset.location / "tokenizer", folder, "tokenizer")


def _count_streams(dataset: Dataset) -> dict[str, StreamInfo]:
    return {name: info.model_copy(update={"shards": []}) for name, info in dataset.info.streams.items()}


def _is_refused(recipe: Recipe, sources: Sequence[FirstRows]) -> bool:
    problems = [row for source in sources for row in source.rows if isinstance(row, Problem)]
    allowed = MAX_DROPPED_SHARE * sum(len(source.rows) for source in sources)
    may_drop = recipe.data.invalid_rows == "Drop" and all(problem.is_row for problem in problems)
    return bool(problems) and not (may_drop and len(problems) <= allowed)


def _estimate_epoch(recipe: Recipe, dataset: Dataset, sources: Sequence[FirstRows]) -> tuple[Fraction, float]:
    """Estimate the samples of an epoch of the whole run, and the tokens of a sample, from the small dataset's."""
    info, length = dataset.info.streams["train"], recipe.training.sequence_length
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    tokens_per_sample = min(float(length), info.tokens / len(samples)) if len(samples) else float(length)
    if all(source.is_whole for source in sources):
        return count_epoch(parts_of(recipe, dataset, samples)), tokens_per_sample
    tokens = 0.0
    for source in sources:
        number = source.files[0].source
        if number < len(info.by_source):
            scale = source.total_rows / max(1, len(source.rows))
            tokens += recipe.data.train[number].weight * scale * info.by_source[number].tokens
    return Fraction(int(tokens / max(1.0, tokens_per_sample))), tokens_per_sample


# ---------------------------------------------------------------------------------------------------------------- rows


def _show_rows(
    decided: DecidedStreams,
    sources: Mapping[str, Sequence[FirstRows]],
    streams: Iterable[str],
    tokenizer: DocumentTokenizer,
) -> list[PreviewRow]:
    """Show the first rows of each stream of the dataset, and the first of those left out."""
    rows = [row for stream in decided.names for row in _describe_stream(decided, stream, sources[stream], tokenizer)]
    shown = []
    for stream in streams:
        of_stream = [row for row in rows if row.stream == stream]
        shown += [row for row in of_stream if not row.left_out][:_SHOWN_ROWS]
        shown += [row for row in of_stream if row.left_out][:_SHOWN_LEFT_OUT]
    return shown


def _describe_stream(
    decided: DecidedStreams, stream: str, sources: Sequence[FirstRows], tokenizer: DocumentTokenizer
) -> Iterator[PreviewRow]:
    kind = kind_of(decided.recipe, stream)
    is_whole = all(source.is_whole for source in sources)
    records: list[Any] = []
    rows: list[PreviewRow] = []
    for row, each in zip(chain.from_iterable(source.rows for source in sources), decided.read(stream, ""), strict=True):
        target, reason = each.fate.stream, each.fate.left_out
        if isinstance(row, Problem):
            place, _, problem = row.text.partition(": ")
            yield PreviewRow(place=place, stream=target, left_out=problem)
        elif reason is not None:
            among = ", were these first rows all there is" if reason in _RELATIVE and not is_whole else ""
            yield PreviewRow(place=row.place, stream=target, left_out=LEFT_OUT_TEXT[reason] + among)
        else:
            records.append(each.record)
            rows.append(PreviewRow(place=row.place, stream=target))
    examples = kind.build_encoder(tokenizer, decided.recipe).encode(records)
    for shown, of_row in zip(rows, examples, strict=True):
        yield _describe_examples(shown, of_row, kind, tokenizer)


def _describe_examples(
    row: PreviewRow, examples: Sequence[Example], kind: RecordKind, tokenizer: DocumentTokenizer
) -> PreviewRow:
    if not examples:
        return row.model_copy(update={"left_out": "nothing of it would be trained on"})
    parts = [kind.show(example.columns) for example in examples]
    return row.model_copy(
        update={
            "examples": len(examples),
            "tokens": sum(len(example.columns["input_ids"]) for example in examples),
            "trained_tokens": sum(end - start for part in parts for start, end in part.spans),
            "truncated": any(example.is_truncated for example in examples),
            "target": parts[0].target,
            "pieces": list(_cut_pieces(examples[0].columns["input_ids"], parts[0].spans, tokenizer)),
        }
    )


def _cut_pieces(
    token_ids: Sequence[int], spans: Sequence[tuple[int, int]], tokenizer: DocumentTokenizer
) -> Iterator[Piece]:
    """Cut the first tokens of an example where training on them begins or ends, and decode each piece."""
    trained = {token for start, end in spans for token in range(start, end)}
    for is_trained, places in groupby(range(min(len(token_ids), _SHOWN_TOKENS)), key=trained.__contains__):
        text = tokenizer.backend.decode([token_ids[place] for place in places], skip_special_tokens=False)
        yield Piece(text=text, trained=is_trained)
