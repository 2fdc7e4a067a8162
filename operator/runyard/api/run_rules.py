"""Rules across a recipe and how it is run; those of the recipe itself are the trainer's, `contract.rules`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard_trainer.contract.base import CrossRule

if TYPE_CHECKING:  # trainingrun.py reads these rules
    from runyard.api.trainingrun import TrainingRunSpec


def _as_folder(uri: str) -> str:
    return uri if uri.endswith("/") else f"{uri}/"


def _as_folder_cel(uri: str) -> str:
    """Return CEL for a URI with a trailing slash, which makes no difference."""
    return f"({uri}.endsWith('/') ? {uri} : {uri} + '/')"


def _is_among_text(spec: TrainingRunSpec) -> bool:
    folders = tuple(source.uri for source in spec.data.train if source.uri.endswith("/"))
    return _as_folder(spec.output.uri).startswith(folders)


RUN_RULES: tuple[CrossRule[TrainingRunSpec], ...] = (
    CrossRule(
        path="output.uri",
        holds=lambda spec: spec.model.uri is None or _as_folder(spec.model.uri) != _as_folder(spec.output.uri),
        cel=f"!has(self.model.uri) || {_as_folder_cel('self.model.uri')} != {_as_folder_cel('self.output.uri')}",
        message="output.uri is model.uri: a run never writes over its model; choose another output.uri",
    ),
    CrossRule(
        path="output.uri",
        holds=lambda spec: not _is_among_text(spec),
        cel="!self.data.train.exists(source, source.uri.endsWith('/') && "
        f"{_as_folder_cel('self.output.uri')}.startsWith(source.uri))",
        message="output.uri lies in a folder of data.train, so what the run leaves would become text to train on; "
        "choose another output.uri",
    ),
    CrossRule(
        path="method.type",
        holds=lambda spec: spec.method.type != "qlora" or spec.compute.gpus_per_node > 0,
        cel="self.method.type != 'qlora' || self.compute.gpusPerNode > 0",
        message="method.type qlora computes with weights of 4 bits, which CUDA GPUs alone do here: set "
        "compute.gpusPerNode, or method.type to lora",
    ),
    CrossRule(
        path="compute.minNodes",
        holds=lambda spec: spec.queue.name is None or spec.compute.min_nodes is None,
        cel="!has(self.queue.name) || !has(self.compute.minNodes)",
        message="compute.minNodes and queue.name do not go together: Kueue admits all nodes or none; leave one of them "
        "out",
    ),
)
