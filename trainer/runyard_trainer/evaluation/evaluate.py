"""Measure a model on held-out data: of the domain (stream `validation`) and general (stream `general`).

Every sample of a stream is read once, in order; packed text is cut into windows of the training's sequence length. The
ranks share the samples; each sums losses and counts in float64, and the sums are added over the ranks. All ranks take
the same number of forward passes, because a sharded model gathers its weights in each: places past the end of a stream
are filled with samples of no weight.

    loss           = sum over the loss's terms of (sum of the term / its count)      for text: nats per token
    bits per byte  = loss x tokens of the stream / (ln 2 x UTF-8 bytes of its text)

The first token of a document or of a window has nothing before it to be predicted from, so it has no loss; bits per
byte counts it with the mean loss. The end-of-document token is one of the tokens. The samples and their order never
change within a run, so the same weights in the same world give the same bits. An objective with metrics of its own
observes each sample (`judge`) and computes them from all observations (`score`); answers are in `answers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from runyard_trainer.context import World
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.contract.reports import Losses
from runyard_trainer.data.dataset.dataset import Dataset
from runyard_trainer.data.dataset.manifest import StreamInfo
from runyard_trainer.data.order import rank_starts, seed_of
from runyard_trainer.data.records.base import Sample, Samples
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.evaluation.answers import HeldOutRecords, choose_records, measure_answers
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.ranks.distributed import gather_in_order, sum_over_ranks


@dataclass(frozen=True)
class Measured:
    """The loss and metrics of a model on one stream."""

    loss: float
    """The sum of its terms, each a mean: in nats per predicted token, or per text."""
    metrics: dict[str, float] | None = None
    """The objective's own metrics, by name."""


@dataclass(frozen=True)
class HeldOutStream:
    """A held-out stream, and the objective that a model is measured by on it."""

    objective: Objective
    samples: Samples
    info: StreamInfo

    def bits_per_byte(self, measured: Measured | None) -> float | None:
        """Return the loss in bits per byte; None where it is no loss per token of text, or nothing was measured."""
        if measured is None or not self.objective.measures_language:
            return None
        return bits_per_byte(measured.loss, self.info.tokens, self.info.bytes)


@dataclass(frozen=True)
class HeldOutData:
    """All that is held out of a run's data. A stream that was not prepared has no samples, and leaves no losses."""

    domain: HeldOutStream
    """The stream `validation`."""
    general: HeldOutStream
    records: HeldOutRecords | None
    """The records that the model is to answer, for an objective that writes answers."""


def open_held_out(dataset: Dataset, objective: Objective, recipe: Recipe) -> HeldOutData:
    """Open the held-out streams of a dataset whose stream `train` has this objective."""
    general = build_objective(recipe, dataset.info, "general")
    return HeldOutData(
        domain=_open_stream(dataset, "validation", objective, recipe),
        general=_open_stream(dataset, "general", general, recipe),
        records=choose_records(dataset, recipe) if objective.writes_answers else None,
    )


def _open_stream(dataset: Dataset, name: str, objective: Objective, recipe: Recipe) -> HeldOutStream:
    samples = kind_of(recipe, name).open_samples(dataset, name, recipe)
    return HeldOutStream(objective, samples, dataset.stream(name).info)


def evaluate_model(
    module: ObjectiveModule, held_out: HeldOutData, world: World, micro_batch: int, device: torch.device
) -> Losses:
    """Measure `module` on both held-out streams; all ranks call this together and get the same.

    Args:
        module: the objective around its model.
        held_out: the streams.
        world: which rank this is.
        micro_batch: samples in a forward pass of one rank.
        device: where the module computes.
    """
    was_training = module.training
    module.eval()
    try:
        domain = measure_stream(module, held_out.domain, world, micro_batch, device)
        general = measure_stream(module, held_out.general, world, micro_batch, device)
        answers = measure_answers(module, held_out.records, world, device) if held_out.records else {}
    finally:
        module.train(was_training)
    return Losses(
        domain_loss=domain and domain.loss,
        domain_bits_per_byte=held_out.domain.bits_per_byte(domain),
        general_loss=general and general.loss,
        general_bits_per_byte=held_out.general.bits_per_byte(general),
        metrics={**(domain.metrics or {}), **answers} or None if domain else None,
    )


@torch.no_grad()
def measure_stream(
    module: ObjectiveModule, stream: HeldOutStream, world: World, micro_batch: int, device: torch.device
) -> Measured | None:
    """Return the loss and metrics over all samples of one stream; None where it holds nothing to predict."""
    objective = stream.objective
    sums = torch.zeros(objective.num_terms, dtype=torch.float64, device=device)
    counts = [0] * objective.num_terms
    facts: dict[int, Fact] = {}
    for batch in _batches(objective, stream.samples, world, micro_batch):
        inputs = {name: tensor.to(device) for name, tensor in batch.tensors.inputs.items()}
        terms, predicted = (module(**inputs), None) if objective.observe is None else module.predict(**inputs)
        sums += terms
        counts = [count + more for count, more in zip(counts, batch.tensors.counts, strict=True)]
        if objective.observe is not None and predicted is not None:
            rows = zip(batch.samples.items(), predicted.cpu(), strict=False)  # fillers stand last, and are left out
            facts |= {index: objective.observe(sample, row) for (index, sample), row in rows}
    totals = sum_over_ranks([*sums.tolist(), *counts], world)
    total_sums, total_counts = totals[: objective.num_terms], totals[objective.num_terms :]
    if not total_counts[0]:
        return None
    loss = sum(term / max(count, 1.0) for term, count in zip(total_sums, total_counts, strict=True))
    if objective.score is None:
        return Measured(loss)
    return Measured(loss, objective.score(gather_in_order(facts, world)))


def bits_per_byte(loss: float, tokens: int, text_bytes: int) -> float:
    """Convert nats per token to bits per byte of the text."""
    return loss * tokens / (math.log(2) * text_bytes)


@dataclass(frozen=True)
class _Batch:
    tensors: MicroBatch
    samples: dict[int, Sample]
    """By place in the stream, fillers left out. They are the first rows of the tensors, in this order."""


def _batches(objective: Objective, samples: Samples, world: World, micro_batch: int) -> Iterator[_Batch]:
    for start in rank_starts(len(samples), world, micro_batch):
        places = range(start, start + micro_batch)
        held = {place: samples[place] for place in places if place < len(samples)}
        fillers = [samples.filler] * (micro_batch - len(held))
        seeds = [seed_of(0, -1, place) for place in places]  # random draws are the same in each evaluation
        yield _Batch(objective.collate([*held.values(), *fillers], seeds, 0), held)
