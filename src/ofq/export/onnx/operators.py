"""The operations of torch that the supported models are made of, as ONNX has them."""

from typing import Any

import numpy as np
import torch
from torch.fx import Node

from ofq.export.onnx.graph import Graph
from ofq.export.onnx.rounding import Shape, reshaped

_END = 2**63 - 1


class Writer:
    """Adds the operations of a traced model to a graph.

    Attributes:
        graph: that grows.
        values: names of what was computed, by node of the trace.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[Node, str] = {}

    def add(self, node: Node) -> str:
        """Add an operation, and return the name of its value.

        Raises:
            ValueError: there is no form of it here; names it.
        """
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        write = getattr(self, f"_{name}", None)
        if write is None or "ofq" in str(node.target):
            raise ValueError(f"the operation {name} has no form in ONNX here")
        found: str = write(node, *node.args, **node.kwargs)
        return found

    def operand(self, value: Any) -> str:
        """Return the name of an operand: a value, or a number as a constant."""
        return self.values[value] if isinstance(value, Node) else self.graph.constant(np.float32(value))

    def _identity(self, node: Node, x: Node, *_: Any, **__: Any) -> str:
        return self.values[x]

    _dropout = _contiguous = _identity

    def _shaped(self, node: Node, x: Node, *_: Any, **__: Any) -> str:
        return reshaped(self.graph, self.values[x], shape_of(node))

    _view = _reshape = _unflatten = _flatten = _squeeze = _unsqueeze = _shaped

    def _permute(self, node: Node, x: Node, order: list[int]) -> str:
        rank = len(shape_of(x))
        return self.graph.node("Transpose", self.values[x], perm=[axis % rank for axis in order])

    def _transpose(self, node: Node, x: Node, first: int, second: int) -> str:
        order = list(range(len(shape_of(x))))
        order[first], order[second] = order[second], order[first]
        return self._permute(node, x, order)

    def _linear(self, node: Node, x: Node, weight: Node, bias: Node | None = None) -> str:
        product = self.graph.node("MatMul", self.values[x], self._transpose(weight, weight, 0, 1))
        return product if bias is None else self.graph.node("Add", product, self.values[bias])

    def _matmul(self, node: Node, one: Node, other: Node) -> str:
        return self.graph.node("MatMul", self.values[one], self.values[other])

    _bmm = _matmul

    def _add(self, node: Node, one: Any, other: Any) -> str:
        return self.graph.node("Add", self.operand(one), self.operand(other))

    def _mul(self, node: Node, one: Any, other: Any) -> str:
        return self.graph.node("Mul", self.operand(one), self.operand(other))

    def _div(self, node: Node, one: Any, other: Any) -> str:
        return self.graph.node("Div", self.operand(one), self.operand(other))

    def _softmax(self, node: Node, x: Node, axis: int, *_: Any) -> str:
        return self.graph.node("Softmax", self.values[x], axis=axis)

    def _gelu(self, node: Node, x: Node, approximate: str = "none") -> str:
        return self.graph.node("Gelu", self.values[x], approximate=approximate)

    def _relu(self, node: Node, x: Node) -> str:
        return self.graph.node("Relu", self.values[x])

    def _layer_norm(self, node: Node, x: Node, sizes: list[int], *rest: Any) -> str:
        weight, bias, epsilon = (*rest, *(None, None, 1e-5)[len(rest) :])[:3]
        factors = [self.values[weight] if weight is not None else self.graph.constant(np.ones(sizes, np.float32))]
        factors += [self.values[bias]] if bias is not None else []
        return self.graph.node("LayerNormalization", self.values[x], *factors, axis=-len(sizes), epsilon=epsilon)

    def _mean(self, node: Node, x: Node, axes: list[int], keepdim: bool = False) -> str:
        return self.graph.node("ReduceMean", self.values[x], self.graph.constant(axes), keepdims=int(keepdim))

    def _slice(self, node: Node, x: Node, axis: int = 0, start: int = 0, end: int = _END, step: int = 1) -> str:
        if (start, step) == (0, 1) and end >= _END:
            return self.values[x]
        return self.graph.node("Slice", self.values[x], *(self.graph.constant([n]) for n in (start, end, axis, step)))

    def _select(self, node: Node, x: Node, axis: int, place: int) -> str:
        return self.graph.node("Gather", self.values[x], self.graph.constant(np.int64(place)), axis=axis)

    def _index(self, node: Node, x: Node, places: list[Node]) -> str:
        return self.graph.node("Gather", self.values[x], self.values[places[0]], axis=0)

    def _split_with_sizes(self, node: Node, x: Node, sizes: list[int], axis: int = 0) -> str:
        return self.graph.node(
            "Split", self.values[x], self.graph.constant(sizes), outputs=len(sizes), axis=axis % len(shape_of(x))
        )

    def _split(self, node: Node, x: Node, sizes: list[int] | int, axis: int = 0) -> str:
        count: Any = shape_of(x)[axis]
        parts = sizes if isinstance(sizes, list) else [min(sizes, count - at) for at in range(0, count, sizes)]
        return self._split_with_sizes(node, x, parts, axis)

    def _unbind(self, node: Node, x: Node, axis: int = 0) -> str:
        return self.values[x]  # each part is gathered where it is taken

    def _getitem(self, node: Node, parts: Node, place: int) -> str:
        source = self.values[parts]
        if "unbind" in str(parts.target):
            axis = parts.args[1] if len(parts.args) > 1 else 0
            return self._select(node, parts, axis, place)  # type: ignore[arg-type]
        return f"{source}.{place}" if place else source

    def _cat(self, node: Node, parts: list[Node], axis: int = 0) -> str:
        return self.graph.node("Concat", *(self.values[part] for part in parts), axis=axis)

    def _roll(self, node: Node, x: Node, shifts: list[int], axes: list[int]) -> str:
        value = self.values[x]
        for shift, axis in zip(shifts, axes, strict=True):
            size: Any = shape_of(x)[axis]
            at, zero, end, on = (self.graph.constant([n]) for n in (-shift % size, 0, _END, axis))
            parts = [self.graph.node("Slice", value, *ends, on) for ends in ((at, end), (zero, at))]
            value = self.graph.node("Concat", *parts, axis=axis)
        return value

    def _pad(self, node: Node, x: Node, widths: list[int], *_: Any) -> str:
        if any(widths):
            raise ValueError("a map that does not consist of whole windows has no form in ONNX here")
        return self.values[x]

    def _expand(self, node: Node, x: Node, *_: Any) -> str:
        sizes = [
            self.graph.node("Shape", "images", start=0, end=1) if size is None else self.graph.constant([size])
            for size in shape_of(node)
        ]
        return self.graph.node("Expand", self.values[x], self.graph.node("Concat", *sizes, axis=0))


def shape_of(node: Node) -> Shape:
    """Return the sizes of a node's value, None where the number of images decides."""
    return [size if isinstance(size, int) else None for size in node.meta["val"].shape]


def unused(node: Node) -> bool:
    """Return whether a node gives a size, which shapes name already."""
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor | list | tuple)
