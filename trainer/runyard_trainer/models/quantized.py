"""Weights of 4 bits beside an adapter (QLoRA): NF4 with quantized scales, as bitsandbytes packs them.

Tested on CPUs alone so far, where it is for tests only. The layers under an adapter are packed, whole on each rank, and
computed with in the precision of their input. Packed weights are no parameters: they are neither sharded nor saved. The
merged model is the sum of adapter and unpacked weights, as it was measured.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from runyard_trainer.contract.exits import UserError

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState


class PackedLinear(nn.Module):
    """A linear layer whose weight is packed into 4 bits."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.shape = layer.weight.shape
        self.bias = layer.bias
        self._is_transposed = isinstance(layer, Conv1D)
        self._packed: Tensor | None = None
        self._state: QuantState | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute what the layer would that this one stands for."""
        from bitsandbytes.autograd._functions import matmul_4bit  # not in every image, here and below

        assert self._packed is not None
        assert self._state is not None
        output: Tensor = matmul_4bit(inputs, self._packed.t(), quant_state=self._state, bias=self.bias)
        return output

    def pack(self, weight: Tensor) -> None:
        """Take over a weight, as the layer has it."""
        from bitsandbytes.functional import quantize_4bit

        flat = weight.t().contiguous() if self._is_transposed else weight
        self._packed, self._state = quantize_4bit(flat, quant_type="nf4", compress_statistics=True)

    def unpack(self) -> Tensor:
        """Return the weight that is computed with, on the CPU."""
        from bitsandbytes.functional import dequantize_4bit

        assert self._packed is not None
        weight: Tensor = dequantize_4bit(self._packed, self._state)
        return (weight.t() if self._is_transposed else weight).contiguous().cpu()


def check_packable(device: torch.device | None = None) -> None:
    """Refuse where weights of 4 bits cannot be computed with.

    Args:
        device: where they would be; None before that is known.

    Raises:
        UserError: what is missing.
    """
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "method.type qlora needs the package bitsandbytes, which this image does not have: build it with the extra "
            "runyard[qlora], or set method.type to lora"
        )
    if device is not None and device.type != "cuda":
        raise UserError(
            "method.type qlora computes with weights of 4 bits, which needs a CUDA GPU, and this machine has none: set "
            "method.type to lora"
        )


def prepare_packing(model: nn.Module) -> None:
    """Make each layer under an adapter one whose weight will be packed; on the meta device."""
    for module in list(model.modules()):
        base: Any = getattr(module, "base_layer", None)
        if isinstance(base, (nn.Linear, Conv1D)):
            module.base_layer = PackedLinear(base)


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Return the packed layers by the name of the weight that each stands for."""
    return {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, PackedLinear)}


def pack_weights(model: nn.Module, weights: dict[str, Tensor] | None, device: torch.device) -> None:
    """Bring rank 0's weights to every rank, one at a time, and pack them there; other ranks pass None."""
    for name, layer in packed_layers(model).items():
        full = torch.empty(layer.shape, device=device) if weights is None else weights[name].to(device)
        dist.broadcast(full, src=0)
        layer.pack(full)
