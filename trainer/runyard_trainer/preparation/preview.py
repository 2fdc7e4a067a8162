"""What a run will train on, row by row, for people: from the first rows of each source, before anything is prepared.

    the first rows of each source ─┬> a small dataset in a scratch folder, made as the whole will be ─> counts, estimate
                                   └> each row by itself ─> what of it is trained on, or why it is left out

Counts are of these rows alone where a source has more; the estimate reckons with all, from the sizes of the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import Field

from runyard_trainer.contract.exits import UserError
from runyard_trainer.contract.objectives import Mode
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Estimate, Report
from runyard_trainer.data.dataset.dataset import Dataset, open_dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.filters.screening import REASON_WORDS, Reason, Screen, is_held_out
from runyard_trainer.data.order import count_epoch
from runyard_trainer.data.records.base import Example, RecordKind
from runyard_trainer.data.records.kinds import COMPARED, kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, resolve_batch
from runyard_trainer.data.sources.reading import MAX_DROPPED_SHARE
from runyard_trainer.data.sources.rows import Problem
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, load_tokenizer
from runyard_trainer.models.config import check_model, check_vocabulary
from runyard_trainer.preparation.dataset_writer import choose, gather_held_out, list_files, write_dataset
from runyard_trainer.preparation.estimate import estimate_run
from runyard_trainer.preparation.first_rows import Sample, name_places, read_samples, store_samples
from runyard_trainer.preparation.learnable import check_batch, check_enough_data, check_rate, check_targets
from runyard_trainer.storage.open import open_store

_SHOWN_ROWS = 3
"""Of those of a stream that are trained on."""
_SHOWN_LEFT_OUT = 10
"""Of those that are not."""
_SHOWN_TOKENS = 256


class Piece(Report):
    """A run of tokens."""

    text: str
    trained: bool
    """Whether the loss is taken over it."""


class PreviewRow(Report):
    """One row, and what becomes of it."""

    place: str
    """Where it was read: URI and line."""
    stream: str
    """`train`, `replay`, `validation` or `general`."""
    left_out: str = ""
    """Why it is in no stream; empty where it is in one."""
    examples: int = 0
    """What it becomes."""
    tokens: int = 0
    """Of all of them."""
    trained_tokens: int = 0
    """Of these, tokens that the loss is taken over."""
    truncated: bool = False
    """Whether the sequence length cuts it."""
    target: str = ""
    """What is learned of it besides tokens, such as its class."""
    pieces: list[Piece] = Field(default_factory=list)
    """The beginning of its first example."""


class Preview(Report):
    """preview.json, and what `runyard preview` prints."""

    objective: str
    mode: Mode
    is_sample: bool
    """Whether a source has more rows than were read here: `streams` counts these only, `estimate` reckons with all."""
    would_fail: bool = False
    """Whether preparing will refuse the rows that are not valid."""
    streams: dict[str, StreamInfo]
    """What each stream holds, and what was left out of it."""
    rows: list[PreviewRow]
    """The first ones of each stream, and the first of those left out."""
    estimate: Estimate


def preview_run(recipe: Recipe) -> Preview:
    """Look at the first rows of everything that a recipe reads. Writes to a scratch folder only.

    Raises:
        UserError: for all that preparing would refuse, but for rows that are not valid: they are shown.
    """
    config = check_model(recipe)
    check_rate(recipe)
    samples = read_samples(recipe, list_files(recipe))
    with TemporaryDirectory(prefix="runyard-preview-") as name:
        folder = Path(name)
        files = store_samples(samples, folder / "rows")
        location = open_store(f"file://{folder}/data", recipe.storage)
        (folder / "scratch").mkdir()
        try:
            write_dataset(location, recipe, files, folder / "scratch")
        except UserError as error:
            raise UserError(name_places(str(error), samples, folder / "rows"), error.code) from error
        dataset = open_dataset(location / "dataset.json", folder / "cache")
        check_vocabulary(config, dataset.info.base_vocab_size, recipe)
        is_sample = not all(sample.is_whole for sample in chain(*samples.values()))
        would_fail = any(_is_refused(recipe, sampled) for sampled in samples.values())
        epoch, tokens_per_sample = _reckon_epoch(recipe, dataset, samples["train"])
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
            streams=_summarize_streams(dataset, samples),
            rows=show_rows(recipe, samples, dataset, folder / "scratch"),
            estimate=estimate_run(recipe, config, dataset.info.vocab_size, steps, batch, tokens_per_sample),
        )


def _is_refused(recipe: Recipe, samples: Sequence[Sample]) -> bool:
    problems = [row for sample in samples for row in sample.rows if isinstance(row, Problem)]
    allowed = MAX_DROPPED_SHARE * sum(len(sample.rows) for sample in samples)
    may_drop = recipe.data.invalid_rows == "Drop" and all(problem.is_row for problem in problems)
    return bool(problems) and not (may_drop and len(problems) <= allowed)


def _summarize_streams(dataset: Dataset, samples: Mapping[str, Sequence[Sample]]) -> dict[str, StreamInfo]:
    streams = {}
    for name, info in dataset.info.streams.items():
        num_invalid = sum(isinstance(row, Problem) for sample in samples.get(name, ()) for row in sample.rows)
        left_out = {**info.left_out, **({"invalid": num_invalid} if num_invalid else {})}
        streams[name] = info.model_copy(update={"left_out": left_out, "shards": []})
    return streams


def _reckon_epoch(recipe: Recipe, dataset: Dataset, sampled: Sequence[Sample]) -> tuple[Fraction, float]:
    """Samples of an epoch of the whole run, and tokens of a sample, from those of the small dataset."""
    info, length = dataset.info.streams["train"], recipe.training.sequence_length
    samples = kind_of(recipe, "train").open_samples(dataset, "train", recipe)
    tokens_per_sample = min(float(length), info.tokens / len(samples)) if len(samples) else float(length)
    if all(sample.is_whole for sample in sampled):
        return count_epoch(parts_of(recipe, dataset, samples)), tokens_per_sample
    tokens = 0.0
    for sample in sampled:
        source = sample.files[0].source
        if source < len(info.by_source):
            scale = sample.total_rows / max(1, len(sample.rows))
            tokens += recipe.data.train[source].weight * scale * info.by_source[source].tokens
    return Fraction(int(tokens / max(1.0, tokens_per_sample))), tokens_per_sample


# ---------------------------------------------------------------------------------------------------------------- rows


def show_rows(
    recipe: Recipe, samples: Mapping[str, Sequence[Sample]], dataset: Dataset, scratch_dir: Path
) -> list[PreviewRow]:
    """The first rows of each stream, and the first of those left out, as far as these rows by themselves tell."""
    for name in ("shown", "tokenizer-shown"):
        (scratch_dir / name).mkdir()
    tokenizer = load_tokenizer(dataset.location / "tokenizer", scratch_dir / "tokenizer-shown", "tokenizer")
    files = store_samples(samples, scratch_dir / "shown" / "rows")
    held_out = gather_held_out(recipe, files)
    screen = Screen(recipe.data, held_out)
    is_whole = all(sample.is_whole for sample in samples["train"])
    verdicts = _tell(choose(recipe, files, held_out, tokenizer, scratch_dir / "shown"), is_whole)
    rows = [
        row
        for stream in samples
        if stream not in COMPARED
        for row in _describe_stream(recipe, stream, samples[stream], tokenizer, screen, verdicts)
    ]
    shown = []
    for stream in dataset.info.streams:
        of_stream = [row for row in rows if row.stream == stream]
        shown += [row for row in of_stream if not row.left_out][:_SHOWN_ROWS]
        shown += [row for row in of_stream if row.left_out][:_SHOWN_LEFT_OUT]
    return shown


def _tell(verdicts: Iterator[Reason | None], is_whole: bool) -> Iterator[str | None]:
    """What `data.select` has against each row, which depends on all the others."""
    among = "" if is_whole else ", were these first rows all there is"
    return (None if reason is None else REASON_WORDS[reason] + among for reason in verdicts)


def _describe_stream(
    recipe: Recipe,
    stream: str,
    sampled: Sequence[Sample],
    tokenizer: DocumentTokenizer,
    screen: Screen,
    verdicts: Iterator[str | None],
) -> Iterator[PreviewRow]:
    kind = kind_of(recipe, stream)
    fraction = recipe.data.validation.held_out_fraction if stream == "train" else 0.0
    records: list[Any] = []
    rows: list[PreviewRow] = []
    for row in chain.from_iterable(sample.rows for sample in sampled):
        if isinstance(row, Problem):
            place, _, problem = row.text.partition(": ")
            yield PreviewRow(place=place, stream=stream, left_out=problem)
            continue
        record = kind.parse(row)
        identity = kind.identity(record)
        target = "validation" if is_held_out(identity, fraction) else stream
        reason = screen.reason(target, identity, kind.to_json(record))
        left_out = REASON_WORDS[reason] if reason is not None else next(verdicts) if target == "train" else None
        if left_out is not None:
            yield PreviewRow(place=row.place, stream=target, left_out=left_out)
            continue
        records.append(record)
        rows.append(PreviewRow(place=row.place, stream=target))
    examples = kind.build_encoder(tokenizer, recipe).encode(records)
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
    """Tokens of one kind after the other, as text."""
    trained = {token for start, end in spans for token in range(start, end)}
    for is_trained, places in groupby(range(min(len(token_ids), _SHOWN_TOKENS)), key=trained.__contains__):
        text = tokenizer.backend.decode([token_ids[place] for place in places], skip_special_tokens=False)
        yield Piece(text=text, trained=is_trained)
