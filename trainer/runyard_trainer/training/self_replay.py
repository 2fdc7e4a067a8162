"""Have the model write the text that is replayed, before it is trained, where text that it knows is not at hand.

    seed, number of a group ─(token by token)─> GROUP_SEQUENCES sequences ─> <output>/replay/<recipe>/<n>-<sha256>.bin
    all groups, of this attempt or an earlier one ─> the samples of the stream `replay`

Each sequence begins after an end-of-document token and is sampled to its full length at temperature 1, across the ends
of documents: text that the model finds likely is what it should not forget. A group is a function of the weights, the
seed and its number, whatever the world's size. It is stored when it is written, so that the next attempt writes only
what is missing. Each token costs a forward pass. Replayed sequences take places of steps, as other replay does.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from runyard_trainer.context import RunContext
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.manifest import fetch
from runyard_trainer.data.dataset.token_shards import pack
from runyard_trainer.data.order import seed_of
from runyard_trainer.data.records.base import Sample
from runyard_trainer.data.records.text import to_sample
from runyard_trainer.objectives.base import ObjectiveModule
from runyard_trainer.ranks.distributed import run_on_rank_0, sum_over_ranks
from runyard_trainer.storage.base import Location

GROUP_SEQUENCES = 16
"""Sequences written at once. Never change it: other shapes round differently and sample other tokens."""

_BEFORE_TRAINING = -2
"""Stands for the step in seeds; evaluation has -1."""
_SHA256_ENDING = len(".bin") + 64
_DTYPE = np.dtype("<u4")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WrittenText:
    """The written sequences, as `Samples` read from storage."""

    location: Location
    names: list[str]
    """Names of the groups' files, in order of their numbers."""
    num_sequences: int
    length: int
    eos_token_id: int
    cache_dir: Path

    def __len__(self) -> int:
        return self.num_sequences

    def __getitem__(self, index: int) -> Sample:
        group, row = divmod(index, GROUP_SEQUENCES)
        name = self.names[group]
        path = fetch(self.location / name, self.cache_dir, sha256=name[-_SHA256_ENDING:].removesuffix(".bin"))
        tokens = np.memmap(path, _DTYPE, "r", shape=(GROUP_SEQUENCES, self.length))[row].astype(np.int64)
        starts = np.flatnonzero(tokens[:-1] == self.eos_token_id) + 1
        return to_sample(pack(tokens, starts, self.length, self.eos_token_id))

    @property
    def filler(self) -> Sample:
        """A sample of padding only."""
        nothing = np.empty(0, dtype=np.int64)
        return to_sample(pack(nothing, nothing, self.length, self.eos_token_id))


def write_replay(
    module: ObjectiveModule,
    recipe: Recipe,
    output: Location,
    num_sequences: int,
    eos_token_id: int,
    context: RunContext,
    device: torch.device,
) -> WrittenText:
    """Have the model write the sequences that are missing; all ranks call this together, before they restore.

    Args:
        module: a causal language model with the weights of the source model.
        recipe: gives the sequence length and the seed.
        output: where `output.uri` lies.
        num_sequences: how many the run will replay.
        eos_token_id: the end-of-document token.
        context: which rank this is, and where it may keep files.
        device: where the module computes.
    """
    length, world = recipe.training.sequence_length, context.world
    location = output / "replay" / recipe.digest
    wanted = range(ceil(num_sequences / GROUP_SEQUENCES))
    written = run_on_rank_0(lambda: list_groups(location), world)
    missing = [number for number in wanted if number not in written]
    was_training = module.training
    module.eval()
    for start in range(0, len(missing), world.size):
        mine = min(start + world.rank, len(missing) - 1)  # ranks without one of their own write the last one too
        tokens = write_group(module, missing[mine], recipe, eos_token_id, device)
        data = tokens.astype(_DTYPE).tobytes()
        (location / f"{missing[mine]:06d}-{hashlib.sha256(data).hexdigest()}.bin").put(data)
        log.info("text to replay: %d of %d groups are written", min(start + world.size, len(missing)), len(missing))
    module.train(was_training)
    sum_over_ranks([1.0], world)  # nobody looks before all have written
    written = run_on_rank_0(lambda: list_groups(location), world)
    names = [written[number] for number in wanted]
    cache_dir = context.scratch_dir / "replay"
    cache_dir.mkdir(exist_ok=True)
    return WrittenText(location, names, num_sequences, length, eos_token_id, cache_dir)


def write_group(
    module: ObjectiveModule, number: int, recipe: Recipe, eos_token_id: int, device: torch.device
) -> NDArray[np.int64]:
    """Write one group: token ids [GROUP_SEQUENCES, sequence length]; all ranks call this together."""
    generator = torch.Generator(device).manual_seed(seed_of(recipe.training.seed, _BEFORE_TRAINING, number))
    begin = torch.full((GROUP_SEQUENCES, 1), eos_token_id, device=device)
    tokens: NDArray[np.int64] = module.sample(begin, recipe.training.sequence_length, generator).cpu().numpy()
    return tokens


def list_groups(location: Location) -> dict[int, str]:
    """List the stored files by the numbers of their groups."""
    names = sorted(info.key.rpartition("/")[2] for info in location.list())
    return {int(name[:6]): name for name in names if name.endswith(".bin")}
