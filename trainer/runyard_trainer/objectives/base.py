"""What every objective offers, and the micro-batches that it reads.

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
    """The input of one forward pass, on the CPU; the first dimension of each tensor is the samples."""

    inputs: dict[str, Tensor]
    """What the module is called with."""
    counts: tuple[int, ...]
    """For each term of the loss, the number of tokens, texts or pairs that it is a mean over."""
    tokens: int
    """Tokens that go through the model, padding left out."""


@dataclass(frozen=True)
class Traits:
    """What a model does that its configuration does not say, as shown by a few tokens."""

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
        """A frozen copy of the start model, for an objective that compares with it; None where no copy is needed."""
        self.traits = traits
        self.generation: dict[str, Any] | None = None
        """On rank 0, the start model's generation_config.json (`models.generation`)."""

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return the terms of the loss, summed over the micro-batch, fp32 [terms]."""
        raise NotImplementedError

    def predict(self, **inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the same as forward and each sample's predictions, [samples, ...]; None where the loss says all."""
        return self(**inputs), None

    def write(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        max_new_tokens: int,
    ) -> Tensor:
        """Return the likeliest next tokens one by one, of a model that predicts those.

        All ranks call it together, and go on until none of them has a text that is not ended.

        Args:
            input_ids: int64 [texts, tokens], padded at their start.
            attention_mask: int64 [texts, tokens], 0 where that is padding.
            stop_token_ids: the tokens that end a text.
            pad_token_id: the token that follows an end.
            max_new_tokens: the most that a text gets.

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
        """Return next tokens, each drawn by its probability; no token ends a text.

        All ranks call it together, with the same number of tokens to draw.

        Args:
            input_ids: int64 [texts, tokens], the beginning of each text.
            num_tokens: how many to draw for each text.
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
        """Return the logits of the next token behind each of the last places, of a model that predicts tokens.

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
        """Return the model's output for a padded micro-batch.

        `token_type_ids` are left out for architectures without types; GPT-2 would take them for other things.
        """
        if getattr(self.model.config, "type_vocab_size", 0) <= 1:
            inputs.pop("token_type_ids", None)
        return self.model(**inputs)


Fact = Any
"""What `score` needs to know of one held-out sample: small, and the same on every rank."""


@dataclass(frozen=True)
class Objective:
    """How the model of one run is trained and measured: an objective's code, ready to be called."""

    module: Callable[[Any, Traits], ObjectiveModule]
    """Wraps a model."""
    probe: Callable[[Any], Traits]
    """Runs a few tokens through a model; raises UserError where its architecture cannot be trained so."""
    collate: Callable[[Sequence[Sample], Sequence[int], int], MicroBatch]
    """Builds a micro-batch of samples, a seed for each, and the least length to pad to (0: what they need)."""
    num_terms: int = 1
    """The number of the loss's terms."""
    configure: Callable[[Any], None] = lambda _: None
    """Sets what the data decides in a model's configuration, such as its classes."""
    new_weights: tuple[str, ...] = ()
    """The names of parts that a model's folder may lack, since the objective brings its own."""
    best_by: str | None = None
    """The metric that is highest for the best model; None: the best model has the lowest loss."""
    writes_answers: bool = False
    """The model also writes answers to held-out records (`evaluation.answers`)."""
    needs_reference: bool = False
    """The loss compares the model with the start model."""
    measures_language: bool = False
    """The loss is in nats per token of the text, so perplexity and bits per byte follow from it."""
    observe: Callable[[Sample, Tensor], Fact] | None = None
    """Takes from the predictions of a sample what `score` needs to know."""
    score: Callable[[Sequence[Fact]], dict[str, float]] | None = None
    """Computes the metrics over all samples of a stream."""
    auto_class: Any = None
    """The class of transformers that opens the model, from the objective's traits: `build_objective` puts it here."""


def stack(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Return samples whose arrays are alike in shape as tensors [samples, ...]."""
    return {name: torch.stack([torch.from_numpy(sample[name]) for sample in samples]) for name in samples[0]}


PAD_TO_MULTIPLE = 8
"""Padded lengths are multiples of it, as tensor cores want."""


def pad(samples: Sequence[Sample], fills: dict[str, int], min_length: int = 0) -> dict[str, Tensor]:
    """Return samples of different lengths padded at their ends, with the `attention_mask` that shows where.

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
    """Probe a model whose texts stand alone in padded rows: any architecture with the head will do."""
    return Traits(stochastic=probe_dropout(model, input_ids=torch.arange(2, 13)[None], return_dict=False))


@torch.no_grad()
def probe_dropout(model: Any, **inputs: Any) -> bool:
    """Return whether two passes over the same input differ in training. Leaves the model as it was."""
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, second = (model(**inputs)[0] for _ in range(2))
    finally:
        model.train(was_training)
    return not torch.equal(first, second)
