"""Measure a model on held-out data: the domain's (stream `validation`) and the general kind (stream `general`).

Every sample of a stream is read once, in its order; packed text is cut into windows of the training's sequence length.
The samples are dealt to the ranks; each rank sums losses and counts in float64, and the sums are added over the ranks.
All ranks take the same number of forward passes, because a sharded model gathers its weights in each: where the samples
do not divide, places past the end are filled with what weighs nothing.

    loss           = sum over the loss's terms of (sum of the term / its count)      of text: nats per token
    bits per byte  = loss x tokens of the stream / (ln 2 x UTF-8 bytes of its text)

A document's first token is predicted from nothing, and so is the first of a window: they have no loss, and bits per
byte counts them at the mean. The end-of-document token is one of the tokens. The set and its order never change within
a run, so the same weights in the same world give the same bits. Objectives with metrics of their own say what is to be
known of each sample (`judge`) and what all of that amounts to (`score`); what a model writes itself is in `answers`.
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
from runyard_trainer.data.order import rank_starts, seed_of
from runyard_trainer.data.records.base import Sample, Samples
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.evaluation.answers import measure_answers
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.ranks.distributed import gather_in_order, sum_over_ranks


@dataclass(frozen=True)
class Measured:
    """What a model does on a stream."""

    loss: float
    """The sum of its terms, each a mean: nats per predicted token, or per text."""
    metrics: dict[str, float] | None = None
    """The objective's own, by name."""


def evaluate_model(
    module: ObjectiveModule, dataset: Dataset, recipe: Recipe, world: World, micro_batch: int, device: torch.device
) -> Losses:
    """Measure `module` on both held-out streams; all ranks call this together and get the same answer.

    Args:
        module: the objective around its model.
        dataset: the prepared data; a stream without samples leaves its losses unset.
        recipe: what the model is trained to do.
        world: which rank this is.
        micro_batch: samples in a forward pass of one rank.
        device: where the module computes.
    """
    measured: dict[str, Measured | None] = {}
    bits: dict[str, float | None] = {}
    was_training = module.training
    module.eval()
    try:
        for stream in ("validation", "general"):
            objective = build_objective(recipe, dataset.info, stream)
            samples = kind_of(recipe, stream).open_samples(dataset, stream, recipe)
            measured[stream] = found = measure(module, objective, samples, world, micro_batch, device)
            info = dataset.stream(stream).info
            is_told = found is not None and objective.measures_language
            bits[stream] = bits_per_byte(found.loss, info.tokens, info.bytes) if found and is_told else None
        is_asked = build_objective(recipe, dataset.info).writes_answers
        answers = measure_answers(module, dataset, recipe, world, device) if is_asked else {}
    finally:
        module.train(was_training)
    domain, general = measured["validation"], measured["general"]
    return Losses(
        domain_loss=domain and domain.loss,
        domain_bits_per_byte=bits["validation"],
        general_loss=general and general.loss,
        general_bits_per_byte=bits["general"],
        metrics={**(domain.metrics or {}), **answers} or None if domain else None,
    )


@torch.no_grad()
def measure(
    module: ObjectiveModule,
    objective: Objective,
    samples: Samples,
    world: World,
    micro_batch: int,
    device: torch.device,
) -> Measured | None:
    """The loss and metrics over all samples of one stream; None where it holds nothing to predict."""
    sums = torch.zeros(objective.num_terms, dtype=torch.float64, device=device)
    counts = [0] * objective.num_terms
    facts: dict[int, Fact] = {}
    for batch in _batches(objective, samples, world, micro_batch):
        inputs = {name: tensor.to(device) for name, tensor in batch.tensors.inputs.items()}
        terms, predicted = (module(**inputs), None) if objective.observe is None else module.predict(**inputs)
        sums += terms
        counts = [count + more for count, more in zip(counts, batch.tensors.counts, strict=True)]
        if objective.observe is not None and predicted is not None:
            rows = zip(batch.samples.items(), predicted.cpu(), strict=False)  # fillers stand last, and are not judged
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
    """Nats per token, spread over the bytes of the text, in bits."""
    return loss * tokens / (math.log(2) * text_bytes)


@dataclass(frozen=True)
class _Batch:
    tensors: MicroBatch
    samples: dict[int, Sample]
    """Those of weight, by their place in the stream, in their order in the tensors, where they come first."""


def _batches(objective: Objective, samples: Samples, world: World, micro_batch: int) -> Iterator[_Batch]:
    for start in rank_starts(len(samples), world, micro_batch):
        places = range(start, start + micro_batch)
        held = {place: samples[place] for place in places if place < len(samples)}
        fillers = [samples.filler] * (micro_batch - len(held))
        seeds = [seed_of(0, -1, place) for place in places]  # whatever is drawn is the same each time
        yield _Batch(objective.collate([*held.values(), *fillers], seeds, 0), held)
