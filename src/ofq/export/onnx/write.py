"""Write a deployed model as ONNX."""

from pathlib import Path

import onnx
import torch
from torch import nn

from ofq.export.deploy import StoredStep
from ofq.export.header import About
from ofq.export.onnx.graph import Graph
from ofq.export.onnx.operators import Writer, shape_of, unused
from ofq.export.onnx.rounding import activation, stored
from ofq.export.onnx.trace import Traced, traced
from ofq.quant.quantizers.lsq import LSQQuantizer
from ofq.runs.files import write_bytes

HEADER = "ofq"
"""Entry of the model's metadata."""


def write_onnx(path: Path, model: nn.Module, about: About) -> onnx.ModelProto:
    """Write a deployed model and what is known of it, checked and whole or not at all.

    Raises:
        ValueError: it has an operation without a form in ONNX here; names it.
    """
    made = onnx_model(model, about)
    write_bytes(path, made.SerializeToString(deterministic=True))
    return made


def onnx_model(model: nn.Module, about: About) -> onnx.ModelProto:
    """Return a deployed model in ONNX, for any number of normalised images."""
    image = (about.images.channels, *about.images.size)
    trace, graph = traced(model, torch.zeros(2, *image)), Graph()
    writer = Writer(graph)
    parameters = _constants(trace)
    for node in trace.program.graph.nodes:
        if node.op == "placeholder":
            if (named := parameters.get(node.name)) is None:
                writer.values[node] = "images"
            elif named[1].dtype != torch.int8:  # codes are written where they are used
                writer.values[node] = graph.constant(named[1].numpy(), named[0])
        elif node.op == "call_function" and "ofq.rounded" in str(node.target):
            x, name = node.args
            quantizer = trace.quantizers[name]
            if isinstance(quantizer, StoredStep):
                entry, codes = parameters[x.name]
                writer.values[node] = stored(graph, entry, quantizer, codes.numpy())
            elif isinstance(quantizer, LSQQuantizer):
                writer.values[node] = activation(graph, name, quantizer, writer.values[x], shape_of(x))
        elif node.op == "call_function" and not unused(node):
            writer.values[node] = writer.add(node)
    return graph.model(image, about.classes, {HEADER: about.model_dump_json(include=set(About.model_fields))})


def _constants(trace: Traced) -> dict[str, tuple[str, torch.Tensor]]:
    """Return name and content of the trace's inputs that are none of the model's, by their names in the trace."""
    program, signature = trace.program, trace.program.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    known = {**program.constants, **program.state_dict}
    return {short: (name, known[name].detach()) for short, name in named.items()}
