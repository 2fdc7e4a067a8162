"""Make the run's tokenizer: read a given one, train one on `data.train`, or add tokens to the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runyard_trainer.contract.objectives import MASKED_OBJECTIVES
from runyard_trainer.contract.recipe import Recipe
from runyard_trainer.data.filters.selection import Excerpts
from runyard_trainer.data.records.kinds import kind_of
from runyard_trainer.data.tokenizers.encoders import train_encoder_tokenizer
from runyard_trainer.data.tokenizers.extension import extend_tokenizer, sample_texts
from runyard_trainer.data.tokenizers.tokenizer import DocumentTokenizer, load_tokenizer, train_tokenizer
from runyard_trainer.models.config import check_model, has_token_types
from runyard_trainer.preparation.fates import DecidedStreams, read_candidate_texts
from runyard_trainer.storage.base import Location
from runyard_trainer.storage.open import open_store


def make_tokenizer(
    recipe: Recipe, decided: DecidedStreams, excerpts: Excerpts | None, scratch_dir: Path
) -> DocumentTokenizer:
    """Make the run's tokenizer in a folder of `scratch_dir`.

    Tokens are learned from the records that may be trained on, never from held-out ones.

    Args:
        recipe: of the run.
        decided: the run's records.
        excerpts: where to keep an excerpt of each text that is read here, for `data.select`.
        scratch_dir: where the tokenizer's files lie until they are uploaded.
    """
    folder = scratch_dir / "tokenizer"
    folder.mkdir()
    training = recipe.model.scratch.tokenizer.train if recipe.model.scratch is not None else None
    if training is None:
        return _read_tokenizer(recipe, decided, excerpts, folder)
    texts = _read_learned_texts(decided, excerpts, "training the tokenizer")
    if recipe.objective in MASKED_OBJECTIVES:
        return train_encoder_tokenizer(texts, training, has_token_types(check_model(recipe)), folder)
    return train_tokenizer(texts, training.vocab_size, folder)


def _read_tokenizer(
    recipe: Recipe, decided: DecidedStreams, excerpts: Excerpts | None, folder: Path
) -> DocumentTokenizer:
    source, field = tokenizer_source(recipe)
    extension = recipe.model.extend_vocabulary
    if extension is None:
        return load_tokenizer(source, folder, field)
    base_folder = folder.with_name("tokenizer-base")
    base_folder.mkdir()
    base = load_tokenizer(source, base_folder, field)
    texts = _read_learned_texts(decided, excerpts, "extending the vocabulary")
    sampled = sample_texts(texts, decided.undecided.size_bytes("train"))
    return extend_tokenizer(base, sampled, extension.tokens, folder, str(source))


def _read_learned_texts(decided: DecidedStreams, excerpts: Excerpts | None, activity: str) -> Iterator[str]:
    kind = kind_of(decided.recipe, "train")
    return read_candidate_texts(decided, kind.tokenizer_text or kind.identity, excerpts, activity)


def tokenizer_source(recipe: Recipe) -> tuple[Location, str]:
    """Return where the tokenizer lies that the recipe names, and the field that names it."""
    scratch = recipe.model.scratch
    uri, field = (
        (recipe.model.uri, "model.uri") if scratch is None else (scratch.tokenizer.uri, "model.scratch.tokenizer.uri")
    )
    assert uri is not None, "the contract holds exactly one of train and uri"
    return open_store(uri, recipe.storage, field), field
