"""Collect the nodes and constants of an ONNX graph."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ofq.export.codes import packed

OPSET, IR = 25, 13
"""The first with two-bit types."""
_SIGNED = {2: TensorProto.INT2, 4: TensorProto.INT4, 8: TensorProto.INT8}
_UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}


class Graph:
    """An ONNX graph that grows node by node; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node, and return the name of its output, or of its first: the others end in ``.1``, ``.2``, ..."""
        name = f"{kind}_{len(self.nodes)}"
        names = [name, *(f"{name}.{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return name

    def constant(self, values: NDArray[Any] | np.generic | Sequence[int] | float, name: str | None = None) -> str:
        """Add a constant, float32 or int64, and return its name; one that is there already is used again."""
        array = np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32, order="C")
        name = name or f"{array.dtype.name}{list(array.shape)}:{zlib.crc32(array.tobytes()):x}"
        self.constants.setdefault(name, onnx.numpy_helper.from_array(array, name))
        return name

    def codes(self, codes: NDArray[np.int8], name: str, bits: int) -> str:
        """Add integer codes in the smallest type that holds them, and return their name."""
        width = container(bits)
        content = packed(codes, width).tobytes()
        self.constants[name] = helper.make_tensor(name, _SIGNED[width], codes.shape, content, raw=True)
        return name

    def zeros(self, bits: int, *, signed: bool, count: int | None) -> str:
        """Add zero points, one for all or ``count`` of them; their type is what a QuantizeLinear rounds to."""
        width = container(bits)
        kind, shape = (_SIGNED if signed else _UNSIGNED)[width], [] if count is None else [count]
        name = f"zero:{TensorProto.DataType.Name(kind)}{shape}"
        content = bytes(-(-(count or 1) * width // 8))
        self.constants.setdefault(name, helper.make_tensor(name, kind, shape, content, raw=True))
        return name

    def model(self, image: Sequence[int], classes: int, metadata: dict[str, str]) -> onnx.ModelProto:
        """Return the checked model; its input is ``images``, and the node added last gives its output."""
        self.nodes[-1].output[0] = "logits"
        inputs = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *image])
        outputs = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
        graph = helper.make_graph(self.nodes, "ofq", [inputs], [outputs], list(self.constants.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="ofq"
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def container(bits: int) -> int:
    """Return the bits of the smallest type of ONNX that holds codes of so many."""
    return next(width for width in _SIGNED if width >= bits)
