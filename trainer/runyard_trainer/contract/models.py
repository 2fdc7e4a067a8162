"""Where the weights come from, and which of them are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from runyard_trainer.contract.base import CrossRule, Model, Tokens, Uri, exactly_one


class TokenizerTraining(Model):
    """A tokenizer learned from the training text."""

    type: Annotated[Literal["bpe", "wordpiece"], Tokens.BY_VALUE] = "bpe"
    """`bpe`: byte-level BPE, with RoBERTa's special tokens for the masked objectives. `wordpiece`: as BERT has it,
    cased; for the masked objectives alone, since text cannot be written back from it."""
    vocab_size: Annotated[int, Tokens.BY_VALUE] = Field(default=32000, ge=300, le=1_000_000)
    """Size of the vocabulary, special tokens included. At least 300: 256 bytes and some merges."""


class TokenizerSource(Model):
    """Exactly one of a tokenizer to train and one that is there."""

    cross_rules = (exactly_one("model.scratch.tokenizer", "train", "uri"),)

    train: TokenizerTraining | None = None
    """Train one on `data.train`."""
    uri: Annotated[Uri | None, Tokens.BY_FILES] = None
    """A folder with tokenizer.json, as `save_pretrained` writes it."""


MAX_CONFIG_DEPTH = 4
"""Levels of a configuration, its own included: transformers' go to three."""
MAX_CONFIG_ENTRIES = 1024
"""Of each object and list of a configuration."""
MAX_CONFIG_TEXT_LENGTH = 4096
"""Characters of each text of a configuration."""


def _check_bounds(value: Any, path: str = "config", depth: int = MAX_CONFIG_DEPTH) -> Any:
    """Raise ValueError where a value of a configuration is larger or deeper than any that transformers has."""
    if isinstance(value, str) and len(value) > MAX_CONFIG_TEXT_LENGTH:
        raise ValueError(f"{path} has {len(value)} characters: at most {MAX_CONFIG_TEXT_LENGTH} fit")
    if not isinstance(value, dict | list):
        return value
    if len(value) > (MAX_CONFIG_ENTRIES if depth else 0):
        bound = f"{MAX_CONFIG_ENTRIES} entries" if depth else f"{MAX_CONFIG_DEPTH} levels"
        raise ValueError(f"{path} goes beyond the {bound} that a configuration may have")
    for name, each in value.items() if isinstance(value, dict) else enumerate(value):
        _check_bounds(each, f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}", depth - 1)
    return value


class ScratchModel(Model):
    """A model with random weights."""

    config: Annotated[dict[str, Any], AfterValidator(_check_bounds), Tokens.BY_USE]
    """A transformers configuration: `model_type` and its fields. `vocab_size` and the special token ids come from the
    tokenizer."""
    tokenizer: TokenizerSource
    """The tokenizer to train or to read."""


class SourceRun(Model):
    """What another run leaves; this one waits for it."""

    name: Annotated[str, Tokens.NOT] = Field(min_length=1, max_length=63)
    """A TrainingRun of the same namespace."""
    checkpoint: Annotated[str, Tokens.NOT] = Field(default="best", max_length=20, pattern=r"^(best|last|[0-9]+)$")
    """`best`: the model that it has exported. `last`, or a step: a checkpoint that it has kept."""


class VocabularyExtension(Model):
    """Tokens for the domain's words, besides those that the model has."""

    tokens: Annotated[int, Tokens.BY_VALUE] = Field(ge=1, le=100_000)
    """How many to add, of those that shorten `data.train` most; fewer where no more words come twice."""


def _needs_uri(field: str) -> CrossRule[Any]:
    """Return the rule that this field is given with `uri` only."""
    return CrossRule(
        path=field,
        holds=lambda model: model.uri is not None or getattr(model, field) is None,
        cel=f"has(self.uri) || !has(self.{field})",
        message=f"model.{field} is of the folder at model.uri, which is absent: remove model.{field}",
    )


class ModelSource(Model):
    """Where the weights come from. Exactly one of `uri`, `run` and `scratch`."""

    cross_rules = (
        exactly_one("model", "uri", "run", "scratch"),
        CrossRule(
            path="extendVocabulary",
            holds=lambda model: model.extend_vocabulary is None or model.scratch is None,
            cel="!has(self.extendVocabulary) || !has(self.scratch)",
            message="model.extendVocabulary adds to the tokenizer of a model that has learned something, and "
            "model.scratch has none: remove it, and say model.scratch.tokenizer.train.vocabSize",
        ),
        _needs_uri("digest"),
        _needs_uri("step"),
        CrossRule(
            path="",
            holds=lambda model: model.digest is None or model.step is None,
            cel="!has(self.digest) || !has(self.step)",
            message="model.digest is of the exported weights, and model.step takes others: keep one of them",
        ),
    )

    uri: Annotated[Uri | None, Tokens.BY_FILES] = None
    """A Hugging Face model folder with safetensors weights and a tokenizer."""
    digest: Annotated[str | None, Tokens.NOT] = Field(default=None, max_length=80, pattern=r"^sha256:[0-9a-f]{64}$")
    """Of the folder at `uri`, as lineage and status tell it: anything else found there is refused."""
    step: Annotated[int | None, Tokens.NOT] = Field(default=None, ge=1)
    """Take the weights from the checkpoint of this step, which the run that left the folder at `uri` has kept."""
    run: SourceRun | None = None
    """Another TrainingRun of the namespace, once it has succeeded. Resolved to `uri` and `digest` or `step`."""
    scratch: ScratchModel | None = None
    """Pre-train from random weights."""
    extend_vocabulary: VocabularyExtension | None = None
    """Add tokens to the model's tokenizer, learned from `data.train`, so that the domain's text takes fewer. Each
    begins as the mean of the tokens that it joins, and embeddings are trained, with an adapter too. For causal-lm and
    sft, and tokenizers of byte-level BPE (GPT-2, Llama 3, Qwen, GPT-NeoX). Absent: the tokenizer stays as it is."""


ModuleName = Annotated[str, Field(min_length=1, max_length=256)]


ADAPTER_FIELDS = ("rank", "alpha", "dropout", "targets", "merge")
"""Of `Method`: those that mean nothing without an adapter."""


def _of_adapter(field: str) -> CrossRule[Any]:
    """Return the rule that this field is given with an adapter only."""
    return CrossRule(
        path=field,
        holds=lambda method: method.is_adapter or getattr(method, field) is None,
        cel=f"self.type != 'full' || !has(self.{field})",
        message=f"method.{field} belongs to an adapter, and method.type is full: remove it, or set method.type to lora "
        "or dora",
    )


class Method(Model):
    """Which weights are trained. All but `type` belong to adapters: two thin matrices beside each weight, which stays
    as it is.
    """

    cross_rules = tuple(_of_adapter(field) for field in ADAPTER_FIELDS)

    type: Literal["full", "lora", "dora", "qlora"] = "full"
    """`full`: every weight. `lora`: an adapter. `dora`: one that learns how large each output's weights are by itself,
    too. `qlora`: lora beside weights of 4 bits, on CUDA GPUs with bitsandbytes in the image; not tested on GPUs yet."""
    rank: int | None = Field(default=None, ge=1, le=4096)
    """Width of the adapter. Absent: 16."""
    alpha: float | None = Field(default=None, gt=0, le=65536)
    """The adapter's product is scaled by alpha / rank. Absent: twice the rank."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Share of the adapter's inputs that a training step leaves out. Absent: 0.05, and 0 for preference, which is
    trained without dropout."""
    targets: Annotated[list[ModuleName], Field(min_length=1, max_length=64)] | None = None
    """Names of the layers that get an adapter, or how they end: q_proj. Absent: every linear layer but the output's."""
    merge: bool | None = None
    """Add the adapter to the weights and export the sum as model/; adapter/ is exported in any case. Absent: true."""

    @property
    def is_adapter(self) -> bool:
        """Tell whether the model's own weights stay as they are."""
        return self.type != "full"

    @property
    def resolved_rank(self) -> int:
        """Return `rank`, default resolved."""
        return self.rank or 16

    @property
    def resolved_alpha(self) -> float:
        """Return `alpha`, default resolved."""
        return self.alpha or 2.0 * self.resolved_rank

    @property
    def is_merged(self) -> bool:
        """Tell whether the exported model has the adapter in its weights; default resolved."""
        return self.merge is not False
