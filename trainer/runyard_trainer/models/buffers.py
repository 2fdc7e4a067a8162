"""Persistent buffers: what a model's files hold beside its weights, such as the bias by which DeepSeek-V3's routers
balance their experts.

They are no parameters: no gradient reaches them, they are not sharded, and each rank has them whole. A run exports them
unchanged. Only I-BERT would change some in training: each rank by its own samples, so that ranks would differ, and the
exported model would depend on their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield each buffer's name in the model, the module that has it, and its name there."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and buffer is not None:
                yield f"{path}.{name}" if path else name, module, name


def spread_buffers(model: nn.Module, values: dict[str, Tensor] | None, device: torch.device) -> None:
    """Give every rank's model the buffers that rank 0 has, one at a time; other ranks pass None."""
    for path, module, name in persistent_buffers(model):
        buffer = torch.empty_like(module.get_buffer(name), device=device, memory_format=torch.contiguous_format)
        if values is not None:
            assert values[path].shape == buffer.shape, path
            buffer.copy_(values[path])
        dist.broadcast(buffer.view(-1).view(torch.uint8), src=0)  # as bytes: no backend knows all types
        module._buffers[name] = buffer


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo what the body does to the buffers, in place or by putting others there."""
    held = [(module, name, module.get_buffer(name)) for _, module, name in persistent_buffers(model)]
    copies = [buffer.clone() for _, _, buffer in held]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, buffer), copy in zip(held, copies, strict=True):
                module._buffers[name] = buffer.copy_(copy)
