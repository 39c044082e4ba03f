"""Sizes, honest: what each layer of a run takes in each file, and what all that is no code adds to a weight."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from safetensors import safe_open

from ofq.export.header import Header
from ofq.runs.files import reading

REST = "everything else"
"""Norms, tokens, positions, and quantizers of activations that are the input of no layer."""
FORMAT = "header, names"
"""What of a file is no number: the JSON of safetensors, the nodes of ONNX."""


class Layer(BaseModel):
    """Bytes of one layer in each file; ``weights`` counts its codes, under QKR those of the composed product."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    weights: int
    bits: int
    bytes: dict[str, int]


class Sizes(BaseModel):
    """What ``sizes.json`` of an exported run holds; ``files`` and ``top1`` are by kind of file.

    Kinds are ``float``, the full-precision teacher, ``checkpoint``, the run's own file with latent weights, ``packed``
    and ``onnx``. ``apart`` counts the evaluation images whose ONNX logits differ by 1e-4 or more from the others.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    run: str
    files: dict[str, int]
    top1: dict[str, float]
    images: int
    apart: int
    layers: list[Layer]

    @property
    def weights(self) -> int:
        """How many weights are stored as codes."""
        return sum(layer.weights for layer in self.layers)


def read_sizes(path: Path) -> Sizes:
    """Read the sizes of an exported run.

    Raises:
        UserError: missing, damaged, or of another form.
    """
    with reading(path):
        return Sizes.model_validate_json(path.read_bytes())


def layers_of(header: Header, files: Mapping[str, Path]) -> list[Layer]:
    """Return what each layer takes in each file.

    Args:
        header: of the packed file.
        files: paths by kind; the last two rows have what belongs to no layer, and what is no number.
    """
    known = {name.rpartition(".")[0]: (math.prod(each.shape), each.bits) for name, each in header.codes.items()}
    found = {kind: _by_layer(_tensors(path), list(known)) for kind, path in files.items()}
    for kind, path in files.items():
        found[kind][FORMAT] = path.stat().st_size - found[kind].total()
    rows = {**known, REST: (0, 32), FORMAT: (0, 0)}
    return [
        Layer(name=name, weights=weights, bits=bits, bytes={kind: found[kind][name] for kind in files})
        for name, (weights, bits) in rows.items()
    ]


def _by_layer(tensors: Mapping[str, int], layers: list[str]) -> Counter[str]:
    """Return bytes by layer: a tensor belongs to the layer with the longest name that its own begins with."""
    found: Counter[str] = Counter()
    for name, size in tensors.items():
        owners = [layer for layer in layers if name.startswith(f"{layer}.")]
        found[max(owners, key=len, default=REST)] += size
    return found


def _tensors(path: Path) -> dict[str, int]:
    """Return the bytes of each tensor of a safetensors file or an ONNX model, by name."""
    if path.suffix == ".onnx":
        import onnx

        return {each.name: len(each.raw_data) for each in onnx.load(path).graph.initializer}
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name).nbytes for name in file.keys()}  # noqa: SIM118  # no mapping
