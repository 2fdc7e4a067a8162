"""Rows of a model's embeddings for tokens that were added to its tokenizer."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from runyard_trainer.contract.exits import UserError
from runyard_trainer.data.dataset.dataset import DatasetInfo
from runyard_trainer.models.buffers import persistent_buffers


def embeddings_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the layer that reads tokens and the one that predicts them: the same weight where they are tied."""
    layers = (model.get_input_embeddings(), cast(Any, model).get_output_embeddings())
    return [layer for layer in layers if layer is not None]


def add_rows(model: PreTrainedModel, data: DatasetInfo) -> None:
    """Give each new token the mean of the rows of the tokens that it joins; in place, and `config` with it.

    Rows that a model has beyond its tokenizer's tokens are used first.

    Raises:
        UserError: the model looks each token up in something else, too.
    """
    if not data.new_tokens:
        return
    _refuse_other_tables(model)
    if data.vocab_size > model.config.get_text_config().vocab_size:
        with torch.random.fork_rng(devices=[]):
            model.resize_token_embeddings(data.vocab_size, mean_resizing=False)
    weights = {weight for layer in embeddings_of(model) for weight in layer.parameters(recurse=False)}
    with torch.no_grad():
        for weight in weights:  # rows of a weight, or numbers of a bias
            for number, pieces in enumerate(data.new_tokens):
                weight[data.base_vocab_size + number] = weight[pieces].mean(dim=0)


def _refuse_other_tables(model: PreTrainedModel) -> None:
    """Refuse models that look tokens up elsewhere too: a table of DeepSeek-V4 names the experts of each token, and no
    mean of experts is an expert.
    """
    rows = model.config.get_text_config().vocab_size
    for path, owner, name in persistent_buffers(model):
        table = owner.get_buffer(name)
        if table.ndim == 2 and table.shape[0] == rows and not table.is_floating_point():
            raise UserError(
                f"model.extendVocabulary: model_type {model.config.model_type} names something for each token in its "
                f"{path}, and nothing is known to name for new ones: leave model.extendVocabulary away"
            )
