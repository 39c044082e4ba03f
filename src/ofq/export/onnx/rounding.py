"""Quantizers as ONNX has them: QuantizeLinear and DequantizeLinear, with what these lack written out."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ofq.export.deploy import StoredStep
from ofq.export.onnx.graph import Graph, container
from ofq.quant.quantizers.lsq import LSQQuantizer

Shape = Sequence[int | None]
"""Sizes of a value; None where the number of images decides."""


def stored(graph: Graph, name: str, quantizer: StoredStep, codes: NDArray[np.int8]) -> str:
    """Add the values of stored codes: DequantizeLinear, and half a step more on the grid of half steps.

    On the grid of whole steps the step is multiplied after it. A default session of onnxruntime computes either as it
    stands; it replaces a product of a bare DequantizeLinear by one that rounds activations to 8 bits.
    """
    rest = [1] * (codes.ndim - 1)
    held = graph.codes(codes, f"{name}.codes", quantizer.bits)
    scale = quantizer.scale.numpy()
    if not quantizer.offset:
        steps = graph.constant(scale.reshape(-1, *rest), f"{name}.scale")
        return graph.node("Mul", graph.node("DequantizeLinear", held, graph.constant(1.0)), steps)
    whole = scale.size == 1 < codes.shape[0]
    steps = graph.constant(scale[0] if whole else scale, f"{name}.scale")
    values = graph.node("DequantizeLinear", held, steps, **({} if whole else {"axis": 0}))
    return graph.node(
        "Add", values, graph.constant((scale * np.float32(quantizer.offset)).reshape(-1, *rest), f"{name}.half")
    )


def activation(graph: Graph, name: str, quantizer: LSQQuantizer, x: str, shape: Shape) -> str:
    """Add a rounded activation: x + before, to integers, to values, + after.

    QuantizeLinear rounds to even and clips to the ends of its type, which are those of 2, 4 and 8 bits. Other codes are
    clipped before, in a wider type.
    """
    if quantizer.before is not None:
        before = quantizer.before.view(quantizer.shape).numpy()
        x = graph.node("Add", x, graph.constant(before, f"{name}.before"))
    step = quantizer.scale.numpy()
    axes = () if quantizer.axis is None else quantizer.axis
    axes = (axes,) if isinstance(axes, int) else axes
    first = axes[0] % len(shape) if axes else 0
    if len(axes) > 1:  # a step for each pair of indices: as one axis
        x = reshaped(graph, x, [*shape[:first], step.size, *shape[first + len(axes) :]])
    values = _rounded(graph, name, quantizer, x, len(shape) - first - len(axes) if axes else None)
    if len(axes) > 1:
        values = reshaped(graph, values, shape)
    if quantizer.after is None:
        return values
    rows, after = quantizer.shape, quantizer.after.numpy()
    after = np.pad(after, (0, math.prod(rows) - after.size)).reshape(rows)
    return graph.node("Add", values, graph.constant(after, f"{name}.after"))


def _rounded(graph: Graph, name: str, quantizer: LSQQuantizer, x: str, rest: int | None) -> str:
    """Add x rounded; behind the axis that has a step for each index stand ``rest`` others, None: there is one step."""
    step, bits, signed = quantizer.scale.numpy(), quantizer.bits, bool(quantizer.signed)
    if container(bits) == bits and (rest is None or bits < 8):
        count, along = (None, {}) if rest is None else (step.size, {"axis": -1 - rest})
        scale = graph.constant(step[0] if rest is None else step, f"{name}.scale")
        zero = graph.zeros(bits, signed=signed, count=count)
        integers = graph.node("QuantizeLinear", x, scale, zero, **along)
        return graph.node("DequantizeLinear", integers, scale, zero, **along)
    # In steps: codes that are clipped before, and those of 8 bits, since onnxruntime 1.32 replaces a product of such
    # with a step for each token by one that it then refuses.
    steps = graph.constant(step.reshape(-1, *[1] * (rest or 0)), f"{name}.scale")
    u = graph.node("Div", x, steps)
    if container(bits) != bits:
        # Not Clip: onnxruntime 1.32 merges one with a QuantizeLinear behind it, and fails where that has four bits.
        low, high = (graph.constant(np.float32(end)) for end in quantizer.levels())
        u = graph.node("Max", graph.node("Min", u, high), low)
    one, zero = graph.constant(1.0), graph.zeros(bits, signed=signed, count=None)
    codes = graph.node("DequantizeLinear", graph.node("QuantizeLinear", u, one, zero), one, zero)
    return graph.node("Mul", codes, steps)


def reshaped(graph: Graph, x: str, shape: Shape) -> str:
    """Add a Reshape; at most one size may depend on the number of images.

    Raises:
        ValueError: more than one does.
    """
    if sum(size is None for size in shape) > 1:
        raise ValueError("a shape in which two sizes depend on the number of images has no form in ONNX")
    return graph.node("Reshape", x, graph.constant([-1 if size is None else size for size in shape]))
