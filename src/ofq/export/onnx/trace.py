"""Trace a deployed model with its quantizers as whole operations, which become QuantizeLinear and DequantizeLinear."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ofq.quant.quantizers.base import Quantizer


@torch.library.custom_op("ofq::rounded", mutates_args=())
def rounded(x: Tensor, name: str) -> Tensor:
    """Stand for the quantizer of that name: values of a rounded activation, or of stored codes."""
    raise NotImplementedError(f"{name} is only traced")


@rounded.register_fake
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x, dtype=torch.float32)


class _Named(nn.Module):
    """In the place of a quantizer while a model is traced; no fused function takes over."""

    fusible = False
    axis = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Stand for the quantizer."""
        result: Tensor = rounded(x, self.name)
        return result


class Traced(NamedTuple):
    """A traced model, and its quantizers by the names that the trace has."""

    program: ExportedProgram
    quantizers: dict[str, Quantizer]


def traced(model: nn.Module, images: Tensor) -> Traced:
    """Trace a deployed model for any number of images, from two (2, channels, height, width)."""
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    named = copy.deepcopy(model)
    for name in quantizers:
        parent, _, child = name.rpartition(".")
        setattr(named.get_submodule(parent), child, _Named(name))
    with torch.no_grad():
        return Traced(torch.export.export(named, (images,), dynamic_shapes=({0: Dim("batch")},)), quantizers)
