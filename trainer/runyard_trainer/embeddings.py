"""Rows of a model's embeddings for tokens that were added to its tokenizer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from runyard_trainer.shards import DatasetInfo


def embeddings_of(model: PreTrainedModel) -> list[nn.Module]:
    """The layer that reads tokens and the one that predicts them: the same weight where they are tied."""
    layers = (model.get_input_embeddings(), cast(Any, model).get_output_embeddings())
    return [layer for layer in layers if layer is not None]


def add_rows(model: PreTrainedModel, data: DatasetInfo) -> None:
    """Give each new token the mean of the rows of the tokens that it joins; in place, and `config` with it.

    Rows that a model has beyond its tokenizer's tokens are used first.
    """
    if not data.new_tokens:
        return
    if data.vocab_size > model.config.get_text_config().vocab_size:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(data.vocab_size, mean_resizing=False)
    weights = {weight for layer in embeddings_of(model) for weight in layer.parameters(recurse=False)}
    with torch.no_grad():
        for weight in weights:  # rows of a weight, or numbers of a bias
            for number, pieces in enumerate(data.new_tokens):
                weight[data.base_vocab_size + number] = weight[pieces].mean(dim=0)
