"""Batch normalisation: which layers of a model do it, their statistics over some batches, which layer feeds them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Layers = dict[str, _BatchNorm]


def batch_norms(model: nn.Module) -> Layers:
    """Return the batch norms of a model that keep running statistics, by name.

    Raises:
        ValueError: another kind of layer keeps running statistics, or they are those of several processes; names it.
    """
    found = {}
    for name, module in model.named_modules():
        if not _keeps_statistics(module):
            continue
        if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
            raise ValueError(
                f"{name} keeps running statistics in a {type(module).__name__}, which is not supported; BatchNorm2d "
                "and layers derived from it are"
            )
        found[name] = module
    return found


def needs_whole_batches(model: nn.Module) -> bool:
    """Return whether what a model computes, or keeps, while it trains depends on which images share a batch."""
    return any(isinstance(module, _BatchNorm) or _keeps_statistics(module) for module in model.modules())


@torch.no_grad()
def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of a model's batch norms by those of some batches, at the weights as they are.

        running mean = mean over the batches of the batch's mean
        running variance = mean over the batches of the batch's unbiased variance, n/(n - 1) times the biased one

    Batches weigh equally whatever their size, and what their means differ by is not added. During the passes batch
    norms normalise with the statistics of the batch, all other layers are in evaluation mode. The model is left in
    evaluation mode; nothing but running means and variances changes. If anything fails, nothing at all does. A model
    without batch norms is left as it is.

    Args:
        model: with numbers in it.
        batches: images (B, channels, height, width), one batch at least.

    Raises:
        ValueError: there are no batches, a pass does not reach one of the batch norms, a batch has one number a channel
            there, or :func:`batch_norms` refuses a layer.

    Source: tests/golden/README.md section 11, batch norms; Nagel et al. 2022.
    """
    norms = batch_norms(model)
    model.eval()
    if not norms:
        return
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    momenta = {name: norm.momentum for name, norm in norms.items()}
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # torch then keeps the plain average
    replaced: set[int] = set()
    try:
        for batch in batches:
            model(batch)
        for name, norm in norms.items():
            if not norm.num_batches_tracked:
                raise ValueError(f"there are no batches, or the forward pass does not reach {name}")
        replaced = {id(tensor) for norm in norms.values() for tensor in (norm.running_mean, norm.running_var)}
    finally:
        for name, norm in norms.items():
            norm.momentum, norm.training = momenta[name], False
        for buffer, before in buffers:
            if id(buffer) not in replaced:
                buffer.copy_(before)


@contextmanager
def fed_by(model: nn.Module) -> Iterator[dict[str, str]]:
    """Yield a table that forward passes fill: for each batch norm the layer whose output is what it normalises.

    Layers and batch norms stand in it by name; a batch norm behind anything else, such as a sum, is left out.
    """
    found: dict[str, str] = {}
    last: tuple[str, Any] = "", None

    def ran(name: str, output: Any) -> None:
        nonlocal last
        last = name, output

    def fed(name: str, given: tuple[Any, ...]) -> None:
        if given and given[0] is last[1]:
            found[name] = last[0]

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda _, given, name=name: fed(name, given)))
        elif isinstance(weight := getattr(module, "weight", None), Tensor) and weight.ndim > 1:
            handles.append(module.register_forward_hook(lambda _, __, output, name=name: ran(name, output)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keeps_statistics(module: nn.Module) -> bool:
    return any(name.startswith("running_") and value is not None for name, value in module._buffers.items())
