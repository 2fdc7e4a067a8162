"""What every objective offers, and the micro-batches it is fed with.

    samples ─(collate)─> MicroBatch ─(module)─> terms: the loss, summed over what it is a mean of

A loss is one mean, or the sum of several (`terms`), each over a count of its own: tokens, texts, pairs. Counts are
added over all micro-batches and ranks before a term is divided by its count, so neither the world's size nor how
samples are grouped shows in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import GenerationConfig

from runyard_trainer.data.records.base import Sample


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass reads, on the CPU; the first dimension of each tensor is the samples."""

    inputs: dict[str, Tensor]
    """What the module is called with."""
    counts: tuple[int, ...]
    """What each term of the loss is a mean over: a number of tokens, texts or pairs."""
    tokens: int
    """That go through the model, padding left out."""


@dataclass(frozen=True)
class Traits:
    """What a few tokens through a model have shown of it."""

    stochastic: bool
    """In training, two passes over the same input differ: there is dropout."""
    plain_head: bool = False
    """Logits are the last hidden states through the output embeddings and nothing else."""


class ObjectiveModule(nn.Module):
    """A transformers model, and the loss that it is trained with."""

    def __init__(self, model: Any, traits: Traits) -> None:
        super().__init__()
        self.model = model
        self.reference: Any = None
        """The model as it came, frozen, for an objective that needs it; None where the model can be that itself."""
        self.traits = traits
        self.generation: dict[str, Any] | None = None
        """On rank 0, what the folder that the model came from says of how it writes (`generation`)."""

    def forward(self, **inputs: Tensor) -> Tensor:
        """The terms of the loss, summed over the micro-batch, fp32 [terms]."""
        raise NotImplementedError

    def predict(self, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """As forward, and what is predicted of each sample, [samples, ...]; None where the loss says all."""
        return self(**inputs), None

    def write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        max_new_tokens: int,
    ) -> Tensor:
        """The likeliest next tokens one by one, of a model that predicts those.

        All ranks call it together, and go on until none of them has a text that is not ended.

        Args:
            input_ids: int64 [texts, tokens], padded at their start.
            attention_mask: int64 [texts, tokens], 0 where that is padding.
            stop_token_ids: what ends a text.
            pad_token_id: what follows an end.
            max_new_tokens: as many as a text gets at most.

        Returns:
            int64 [texts, at most max_new_tokens].
        """
        settings = GenerationConfig(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop_token_ids),
            pad_token_id=pad_token_id,
        )
        texts: Tensor = self.model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=settings,
            synced_gpus=dist.is_initialized() and dist.get_world_size() > 1,
        )
        return texts[:, input_ids.shape[1] :]

    def sample(self, input_ids: Tensor, num_tokens: int, generator: torch.Generator) -> Tensor:
        """The next tokens one by one, each drawn by its probability, whatever it ends.

        All ranks call it together with as many tokens to draw.

        Args:
            input_ids: int64 [texts, tokens], what they begin with.
            num_tokens: to draw.
            generator: on the model's device.

        Returns:
            int64 [texts, num_tokens].
        """
        drawn: list[Tensor] = [input_ids]
        cache: Any = None
        for _ in range(num_tokens):
            output = self.model(input_ids=drawn[-1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            probabilities = output.logits[:, -1].float().softmax(-1)
            drawn.append(torch.multinomial(probabilities, 1, generator=generator))
        return torch.cat(drawn[1:], dim=1)

    def predict_next(self, input_ids: Tensor, attention_mask: Tensor, num_kept: int) -> Tensor:
        """Of a model that predicts tokens, what it gives the one behind each of the last places, as logits.

        Args:
            input_ids: int64 [texts, tokens], padded at their start.
            attention_mask: int64 [texts, tokens], 0 where that is padding.
            num_kept: how many places, from the end.

        Returns:
            [texts, num_kept, vocabulary].
        """
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=num_kept,
        ).logits
        return logits

    def run_padded(self, **inputs: Tensor) -> Any:
        """The model's output for a padded micro-batch.

        Only some architectures tell a pair's texts apart by types. GPT-2 takes such numbers and means other things.
        """
        if getattr(self.model.config, "type_vocab_size", 0) <= 1:
            inputs.pop("token_type_ids", None)
        return self.model(**inputs)


Fact = Any
"""What is to be known of one held-out sample to score a model: small, and the same on every rank."""


@dataclass(frozen=True)
class Objective:
    """How the model of one run is trained and measured."""

    module: Callable[[Any, Traits], ObjectiveModule]
    """Wraps a model."""
    probe: Callable[[Any], Traits]
    """Runs a few tokens through a model; raises UserError where it cannot be trained so."""
    collate: Callable[[Sequence[Sample], Sequence[int], int], MicroBatch]
    """Samples, a seed for each, and the least length to pad to (0: what they need)."""
    num_terms: int = 1
    """Of the loss."""
    configure: Callable[[Any], None] = lambda _: None
    """Sets what the data decides in a model's configuration, such as its classes."""
    new_weights: tuple[str, ...] = ()
    """Parts of a model that may be missing in a folder, since the objective brings its own: the beginnings of names."""
    best_by: str | None = None
    """The metric that the best model has most of; None: the one with the least loss is best."""
    writes_answers: bool = False
    """The model is asked for the answers of held-out records, too: see `answers`."""
    needs_reference: bool = False
    """The loss compares the model with what it was when it came."""
    measures_language: bool = False
    """The loss is nats per token of the text: perplexity and bits per byte can be told."""
    observe: Callable[[Sample, Tensor], Fact] | None = None
    """Takes from the predictions of a sample what `score` needs to know."""
    score: Callable[[Sequence[Fact]], dict[str, float]] | None = None
    """Computes the metrics over all samples of a stream."""
    auto_class: Any = None
    """The class of transformers that opens the model, from the objective's traits: `build_objective` puts it here."""


def stack(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Samples whose arrays are alike in shape, as tensors [samples, ...]."""
    return {name: torch.stack([torch.from_numpy(sample[name]) for sample in samples]) for name in samples[0]}


PAD_TO_MULTIPLE = 8
"""Lengths of padded micro-batches are multiples of it: tensor cores want that."""


def pad(samples: Sequence[Sample], fills: dict[str, int], min_length: int = 0) -> dict[str, Tensor]:
    """Samples of different lengths, filled up at their ends, and the `attention_mask` that tells.

    Args:
        samples: with `input_ids` and others.
        fills: which arrays are as long as `input_ids`, and what fills them; the others are stacked as they are.
        min_length: pad to at least so many tokens.
    """
    lengths = torch.tensor([len(sample["input_ids"]) for sample in samples])
    length = -(-max(int(lengths.max()), min_length) // PAD_TO_MULTIPLE) * PAD_TO_MULTIPLE

    def fill(name: str, values: Tensor) -> Tensor:
        return nn.functional.pad(values, (0, length - len(values)), value=fills[name]) if name in fills else values

    tensors = {
        name: torch.stack([fill(name, torch.from_numpy(sample[name])) for sample in samples]) for name in samples[0]
    }
    return tensors | {"attention_mask": (torch.arange(length) < lengths[:, None]).long()}


def name_classes(config: Any, labels: Sequence[str]) -> None:
    """Put the names of a head's classes into a model's configuration, in the order of their numbers."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.num_labels = len(labels)


def probe_padded(model: Any) -> Traits:
    """Of an objective whose texts stand alone in a padded row: any model with its head will do."""
    return Traits(stochastic=probe_dropout(model, input_ids=torch.arange(2, 13)[None], return_dict=False))


@torch.no_grad()
def probe_dropout(model: Any, **inputs: Any) -> bool:
    """Whether two passes over the same input differ in training. Leaves the model as it was."""
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = (model(**inputs)[0] for _ in range(2))
    finally:
        model.train(was_training)
    return not torch.equal(first, second)
