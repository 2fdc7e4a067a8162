"""What a run trains on, opened once: the prepared data, the order of their samples, the number of steps.

resolved.json ─> dataset.json ─> streams `train` and `replay` ─(order)─> the sample at each place of each step
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import Dataset, Resolved, open_dataset, read_resolved
from runyard_trainer.data.order import Order, Part, count_epoch, count_replayed
from runyard_trainer.data.records.base import Samples
from runyard_trainer.data.records.kinds import kind_of, parts_of
from runyard_trainer.data.run_length import count_steps, read_batch
from runyard_trainer.objectives.base import Objective
from runyard_trainer.objectives.build import build_objective
from runyard_trainer.ranks.distributed import run_on_rank_0
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store
from runyard_trainer.storage.patient import be_patient


@dataclass(frozen=True)
class TrainingData:
    """The prepared data of a run, as all its ranks train on them."""

    resolved: Resolved
    """What prepare has left beside the output."""
    dataset: Dataset
    objective: Objective
    """How the stream `train` is trained on."""
    streams: Mapping[str, Samples]
    """The samples of `train` and `replay`."""
    order: Order
    total_steps: int


def open_training_data(recipe: Recipe, context: RunContext, output: Location) -> TrainingData:
    """Open what prepare has left for the run at `output`; all ranks call this together."""
    resolved = run_on_rank_0(lambda: read_resolved(output), context.world)
    manifest = be_patient(open_store(resolved.dataset, recipe.storage, "output.uri"))
    dataset = open_dataset(manifest, context.scratch_dir / "shards", resolved.sha256, resolved.labels)
    streams = {name: kind_of(recipe, name).open_samples(dataset, name, recipe) for name in ("train", "replay")}
    parts = parts_of(recipe, dataset, streams["train"])
    batch = read_batch(recipe, resolved.resolved)
    total_steps = count_steps(recipe, batch, count_epoch(parts))
    order = build_order(recipe, streams, parts, batch, total_steps)
    return TrainingData(resolved, dataset, build_objective(recipe, dataset.info), streams, order, total_steps)


def build_order(
    recipe: Recipe, streams: Mapping[str, Samples], parts: tuple[Part, ...], batch: int, total_steps: int
) -> Order:
    """Build the order of a run. Where the model writes the text to replay itself, it writes as much as is replayed."""
    replay = recipe.data.replay
    num_replay = len(streams["replay"])
    if replay is not None and replay.source == "self":
        num_replay = max(1, count_replayed(replay.fraction, total_steps * batch))
    return Order(
        num_train=len(streams["train"]),
        num_replay=num_replay,
        replay_fraction=replay.fraction if replay is not None else 0.0,
        batch=batch,
        seed=recipe.training.seed,
        parts=parts,
    )
