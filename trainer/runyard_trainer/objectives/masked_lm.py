"""Find masked tokens: of 15 % of the tokens, 80 % are masked, 10 % are replaced and 10 % are left as they are.

    input_ids   [texts, length]   with masks and replacements
    labels      [texts, length]   the token that was there, or -100 where none is to be found

What is masked is drawn for each sample from its own seed: another draw at each place of a run, so in every epoch, the
same on held-out data each time, and the same whatever lies beside it and whichever rank has it. With whole words, words
are drawn, each with all of its tokens; whether a drawn token is masked, replaced or left is drawn token by token. Of a
text so short that nothing is drawn, one token or word is drawn all the same. Special tokens are never drawn, and never
replace text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from numpy.typing import NDArray
from torch import Tensor

from runyard_trainer.contract.exits import ExitCode, UserError
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.data.dataset.token_shards import IGNORED
from runyard_trainer.data.records.base import Sample
from runyard_trainer.objectives.base import Fact, MicroBatch, Objective, ObjectiveModule, Traits, pad, probe_dropout

CHOSEN_SHARE = 0.15
MASKED_SHARE = 0.8
REPLACED_SHARE = 0.1


# ------------------------------------------------------------------------------------------------------------- masking


@dataclass(frozen=True)
class Masker:
    """Masks samples, without changing those it is given."""

    mask_token_id: int
    text_token_ids: NDArray[np.int64]
    """The tokens that may replace one: all but special ones."""
    whole_word: bool

    def mask(self, sample: Sample, seed: int) -> Sample:
        """Return a sample with masks, and `labels` in place of `word_ids`."""
        chance = np.random.default_rng(seed % 2**64)
        ids, word_ids = sample["input_ids"], sample["word_ids"]
        is_text = word_ids >= 0
        if self.whole_word:
            is_chosen = is_text & (chance.random(int(word_ids.max()) + 2) < CHOSEN_SHARE)[word_ids]
        else:
            is_chosen = is_text & (chance.random(len(ids)) < CHOSEN_SHARE)
        fate = chance.random(len(ids))
        replacements = self.text_token_ids[chance.integers(len(self.text_token_ids), size=len(ids))]
        seen = np.where(
            fate < MASKED_SHARE,
            self.mask_token_id,
            np.where(fate < MASKED_SHARE + REPLACED_SHARE, replacements, ids),
        )
        if not is_chosen.any() and is_text.any():
            is_chosen = self._choose_one(word_ids, chance)
        rest = {name: values for name, values in sample.items() if name != "word_ids"}
        return rest | {"input_ids": np.where(is_chosen, seen, ids), "labels": np.where(is_chosen, ids, IGNORED)}

    def _choose_one(self, word_ids: NDArray[np.int64], chance: np.random.Generator) -> NDArray[np.bool_]:
        """Choose one token, or one word, of a text so short that 15 % chose none; drawn after all else."""
        place = chance.choice(np.flatnonzero(word_ids >= 0))
        is_chosen: NDArray[np.bool_] = (
            word_ids == word_ids[place] if self.whole_word else np.arange(len(word_ids)) == place
        )
        return is_chosen


def build_masker(recipe: Recipe, info: DatasetInfo) -> Masker:
    """Build the masker for the tokens of a dataset."""
    assert info.mask_token_id is not None, "prepare refuses a tokenizer without one"
    text_token_ids = np.setdiff1d(np.arange(info.vocab_size), info.special_token_ids)
    return Masker(info.mask_token_id, text_token_ids, recipe.masking.whole_word)


def collate(
    masker: Masker, pad_token_id: int, samples: Sequence[Sample], seeds: Sequence[int], length: int
) -> MicroBatch:
    """Mask and pad windows of different lengths."""
    masked = [masker.mask(sample, seed) for sample, seed in zip(samples, seeds, strict=True)]
    inputs = pad(masked, {"input_ids": pad_token_id, "token_type_ids": 0, "labels": IGNORED}, length)
    return MicroBatch(inputs, (int((inputs["labels"] != IGNORED).sum()),), int(inputs["attention_mask"].sum()))


# --------------------------------------------------------------------------------------------------------------- module


class MaskedLM(ObjectiveModule):
    """The objective around a transformers model for masked language modelling."""

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # it needs these
        """Sum over masked tokens of -ln p, in nats, fp32 [1]."""
        return torch.stack([sum_masked_loss(self.run_padded(**inputs).logits, labels)])

    def predict(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as above
        """Return the same and how many tokens of each text were to be found, and were: int64 [texts, 2]."""
        logits = self.run_padded(**inputs).logits
        return torch.stack([sum_masked_loss(logits, labels)]), count_found(logits, labels)


def sum_masked_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy where there is a label; only these logits become fp32."""
    is_masked = labels != IGNORED
    return F.cross_entropy(logits[is_masked].float(), labels[is_masked], reduction="sum")


def count_found(logits: Tensor, labels: Tensor) -> Tensor:
    """Count each text's labels, and those of them that are the likeliest: int64 [texts, 2]."""
    is_masked = labels != IGNORED
    is_found = (logits.argmax(dim=-1) == labels) & is_masked
    return torch.stack([is_masked.sum(dim=1), is_found.sum(dim=1)], dim=1)


@torch.no_grad()
def probe(model: Any) -> Traits:
    """Learn from a few tokens whether a model takes padded text. Leaves it as it was.

    Raises:
        UserError: where the architecture reads what the attention mask hides.
    """
    name = model.config.model_type
    was_training = model.training
    model.eval()
    tokens = torch.arange(11) * 7919 % (model.config.vocab_size - 5) + 5  # the first few may be special
    inputs = {"input_ids": tokens[None], "attention_mask": torch.ones(1, 11, dtype=torch.long), "return_dict": False}
    padding = {"input_ids": torch.arange(5, 10)[None], "attention_mask": torch.zeros(1, 5, dtype=torch.long)}
    padded = inputs | {field: torch.cat([inputs[field], padding[field]], dim=1) for field in padding}
    try:
        want, got = model(**inputs)[0], model(**padded)[0][:, :11]
        if (want - got).abs().max() > 1e-4 * want.abs().max():
            raise UserError(
                f"model_type {name}: a text followed by padding gets other predictions than without, so this "
                "architecture cannot be trained on texts of different lengths. Use one that hides what the attention "
                "mask says (bert, roberta, modernbert, ...)",
                ExitCode.SPEC_ERROR,
            )
        return Traits(stochastic=probe_dropout(model, **inputs))
    except TypeError as error:
        raise UserError(f"model_type {name} does not take padded text (attention_mask): {error}") from error
    finally:
        model.train(was_training)


# ----------------------------------------------------------------------------------------------------------- objective


def observe(_: Sample, counted: Tensor) -> Fact:
    """Return how many tokens were to be found, and how many were found."""
    return counted.tolist()


def score(facts: Sequence[Fact]) -> dict[str, float]:
    """Return the share of the masked tokens that were found."""
    wanted, found = np.array(facts).sum(axis=0)[:2].tolist()
    return {"maskedAccuracy": found / max(wanted, 1)}


def build_objective(recipe: Recipe, info: DatasetInfo) -> Objective:
    """Find masked tokens."""
    assert info.pad_token_id is not None
    return Objective(
        module=MaskedLM,
        probe=probe,
        collate=partial(collate, build_masker(recipe, info), info.pad_token_id),
        observe=observe,
        score=score,
    )
