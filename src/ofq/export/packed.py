"""Packed files: safetensors with integer codes at their true width, laid out as docs/packed-format.md says."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn

from ofq.errors import UserError, shortened
from ofq.export.codes import packed, unpacked
from ofq.export.deploy import activation_quantizers, coded_modules, entry_of
from ofq.export.header import VERSION, About, Coded, Header, Rounding
from ofq.export.mark import DIGEST, HEADER
from ofq.runs.files import reading, write_bytes

MEND = "export the run again, or fetch the file anew"

Tensors = dict[str, NDArray[Any]]


class Packed(NamedTuple):
    """What a packed file holds: its header, and tensors by name, codes unpacked to int8 in their shape."""

    header: Header
    tensors: Tensors


class _Versioned(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    version: int


def write_packed(path: Path, model: nn.Module, about: About) -> Header:
    """Write a deployed model and its header, whole or not at all, and return the header."""
    header = Header(
        **{name: getattr(about, name) for name in About.model_fields},
        version=VERSION,
        codes=codes_of(model),
        activations={name: rounding(each) for name, each in activation_quantizers(model).items()},
    )
    stored: Tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, coded in header.codes.items():
        stored[name] = packed(stored[name], coded.bits)
    text = header.model_dump_json()
    metadata = {"format": "pt", HEADER: text, DIGEST: digest(text, stored)}
    write_bytes(path, _safetensors(stored, metadata))
    return header


def read_packed(path: Path) -> Packed:
    """Read a packed file, and check all of it that needs no model.

    No more memory is taken than some multiple of the file's size, whatever its header says, and nothing of the file is
    executed or used as a path.

    Raises:
        UserError: it is missing, cut short or changed, of another kind or version, or holds what no export writes.
    """
    try:
        with reading(path, mend=""), safe_open(path, "np") as file:
            metadata: dict[str, str] = file.metadata() or {}
            text = metadata.get(HEADER, "")
            header = _header(path, text)
            stored: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, TypeError, AttributeError) as error:  # the latter two of types that NumPy does not have
        raise UserError(f"{path} is cut short or damaged ({shortened(str(error), 120)}); {MEND}") from None
    if metadata.get(DIGEST) != digest(text, stored):
        raise UserError(f"{path} was changed since it was written (sha256); {MEND}")
    for name in [*header.codes, *stored]:
        if problem := _problem(name, stored.get(name), header.codes.get(name)):
            raise UserError(f"{path}: {shortened(name)} {problem}; {MEND}")
    for name, coded in header.codes.items():
        try:
            stored[name] = unpacked(stored[name], coded.bits, coded.shape)
        except ValueError as error:
            raise UserError(f"{path}: {name} holds {error}; {MEND}") from None
    return Packed(header, stored)


def digest(text: str, stored: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 of the header's text, then of name and bytes of each tensor as it is stored, by name."""
    found = hashlib.sha256(text.encode())
    for name in sorted(stored):
        found.update(name.encode())
        found.update(np.ascontiguousarray(stored[name]).tobytes())
    return found.hexdigest()


def codes_of(model: nn.Module) -> dict[str, Coded]:
    """Return what a deployed model's codes are, by their names in the state dict."""
    found = {}
    for name, module in coded_modules(model):
        entry = entry_of(module)
        codes, quantizer = getattr(module, entry), module.weight_quantizer
        found[f"{name}.{entry}"] = Coded(bits=quantizer.bits, shape=list(codes.shape), offset=quantizer.offset)
    return found


def rounding(quantizer: Any) -> Rounding:
    """Return how an activation is rounded."""
    axis = quantizer.axis
    axes = [] if axis is None else [axis] if isinstance(axis, int) else list(axis)
    return Rounding(bits=quantizer.bits, signed=quantizer.signed is not False, axes=axes)


def _safetensors(tensors: Tensors, metadata: dict[str, str]) -> bytes:
    """Return a safetensors file; the library's writer puts the metadata in another order each time."""
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # the wider ones first: all are aligned
    contents = [np.ascontiguousarray(tensors[name]).tobytes() for name in names]
    ends = np.cumsum([0, *map(len, contents)]).tolist()
    entries = {
        name: {
            "dtype": f"{'U' if tensors[name].dtype.kind == 'u' else 'F'}{8 * tensors[name].itemsize}",
            "shape": list(tensors[name].shape),
            "data_offsets": ends[place : place + 2],
        }
        for place, name in enumerate(names)
    }
    head = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(contents)


def _header(path: Path, text: str) -> Header:
    if not text:
        raise UserError(
            f"{path} is no packed file of ofq (it has no header '{HEADER}'); write one with: python -m ofq export RUN"
        )
    try:
        version = _Versioned.model_validate_json(text).version
        if version != VERSION:
            raise UserError(
                f"{path} has version {version} of the packed format, and this ofq reads {VERSION}; use the ofq that "
                "wrote it, or export the run again"
            )
        return Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} has a header that no export writes ({shortened(place)}: {shortened(first['msg'], 200)}); {MEND}"
        ) from None


def _problem(name: str, tensor: NDArray[Any] | None, coded: Coded | None) -> str | None:
    """Return what is wrong with a tensor as it is stored, or None."""
    if tensor is None:
        return "is missing"
    if coded is not None:
        return None if tensor.dtype == np.uint8 and tensor.ndim == 1 else "should be bytes of codes"
    if tensor.dtype != np.float32:
        return f"should be float32, not {tensor.dtype}"
    if not np.isfinite(tensor).all():
        return "holds values that are not finite"
    if name.endswith(".scale"):
        # A row of zeros has the step zero; what is divided by never has.
        weight = name.endswith(".weight_quantizer.scale")
        if (tensor < 0).any() or not (weight or tensor.all()):
            return "holds steps that are not positive"
    return None
