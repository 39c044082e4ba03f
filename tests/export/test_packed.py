"""Packed files: what is written is what is read, also by whoever has only the page about the format."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import ofq
from ofq.export.codes import packed, unpacked
from ofq.export.deploy import coded_modules, deployed, entry_of
from ofq.export.packed import read_packed, write_packed
from tests.export.small import MODELS, pictures, prepared
from tests.quant.small import KINDS, name_of


@given(bits=st.integers(2, 8), count=st.integers(0, 70), seed=st.integers(0, 99))
def test_codes_take_their_bits_and_come_back(bits: int, count: int, seed: int) -> None:
    half = 2 ** (bits - 1)
    codes = np.random.default_rng(seed).integers(-half, half, count).astype(np.int8)
    content = packed(codes, bits)
    assert content.dtype == np.uint8 and len(content) == -(-count * bits // 8)
    assert np.array_equal(unpacked(content, bits, [count]), codes)


def test_codes_of_two_bits_are_those_of_onnx() -> None:
    codes = np.array([[-2, -1, 0], [1, 1, -2]], np.int8)
    assert packed(codes, 2).tolist() == [0b01_00_11_10, 0b00_00_10_01]
    assert packed(codes, 4).tolist() == [0xFE, 0x10, 0xE1]
    assert packed(codes, 3).tolist() == [0b00_111_110, 0b0_001_001_0, 0b11]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("switches", KINDS, ids=name_of)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_file_gives_the_same_codes_and_logits(name: str, switches: dict[str, Any], bits: int, tmp_path: Path) -> None:
    model, about = prepared(name, **switches, weight_bits=bits, input_bits=bits)
    deployed(model)
    header = write_packed(tmp_path / "a.safetensors", model, about)
    loaded = ofq.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded(pictures(16)), model(pictures(16)))
    state, found = model.state_dict(), loaded.state_dict()
    assert state.keys() == found.keys() and all(torch.equal(state[each], found[each]) for each in state)
    assert read_packed(tmp_path / "a.safetensors").header == header
    assert not loaded.training and not any(each.requires_grad for each in loaded.parameters())


@pytest.mark.parametrize(
    "switches", [{"weight": "lsq"}, {"weight": "nagel", "weight_axis": "tensor", "qkr": True}], ids=name_of
)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_file_of_weights_only_gives_the_same_logits(name: str, switches: dict[str, Any], tmp_path: Path) -> None:
    model, about = prepared(name, **switches, weight_bits=3, input_bits=32)
    expected = model(pictures(16))
    header = write_packed(tmp_path / "a.safetensors", deployed(model), about)
    assert header.activations == {} and header.quantization is not None and header.quantization.input_bits == 32
    assert torch.equal(ofq.load(tmp_path / "a.safetensors")(pictures(16)), expected)


def decoded(content: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and all tensors of a packed file, weights as values; written from docs/packed-format.md."""
    length = int.from_bytes(content[:8], "little")
    entries, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = entries.pop("__metadata__")
    header = json.loads(metadata["ofq"])
    kinds = {"U8": np.uint8, "F32": np.float32}
    stored = {
        name: np.frombuffer(data[slice(*each["data_offsets"])], kinds[each["dtype"]]).reshape(each["shape"])
        for name, each in entries.items()
    }
    digest = hashlib.sha256(metadata["ofq"].encode())
    for name in sorted(stored):
        digest.update(name.encode() + stored[name].tobytes())
    assert digest.hexdigest() == metadata["ofq.sha256"] and metadata["format"] == "pt" and header["version"] == 1
    values = dict(stored)
    for name, coded in header["codes"].items():
        bits, shape, n = coded["bits"], coded["shape"], int(np.prod(coded["shape"]))
        bits_of = np.unpackbits(stored[name], bitorder="little")[: n * bits].reshape(n, bits).astype(int)
        codes = (bits_of << np.arange(bits)).sum(1)
        codes -= (codes >= 2 ** (bits - 1)) * 2**bits
        values[name] = codes.reshape(shape)
        scale = stored[f"{name.rpartition('.')[0]}.weight_quantizer.scale"].reshape(-1, *[1] * (len(shape) - 1))
        values[f"{name}.values"] = scale * (values[name] + coded["offset"]).astype(np.float32)
    return header, values


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("switches", KINDS, ids=name_of)
def test_numpy_and_json_read_it_from_the_page_about_the_format(
    switches: dict[str, Any], bits: int, tmp_path: Path
) -> None:
    model, about = prepared(**switches, weight_bits=bits, input_bits=bits)
    write_packed(tmp_path / "a.safetensors", deployed(model), about)
    header, values = decoded((tmp_path / "a.safetensors").read_bytes())
    weights = dict(coded_modules(model))
    assert len(header["codes"]) == len(weights) > 5
    for name, module in weights.items():
        codes = getattr(module, entry_of(module))
        assert np.array_equal(values[f"{name}.{entry_of(module)}"], codes.numpy()), name
        expected = module.weight_quantizer.rounded(codes).values
        np.testing.assert_allclose(values[f"{name}.{entry_of(module)}.values"], expected.numpy(), rtol=1e-6)
    widths = {coded["bits"] for name, coded in header["codes"].items() if "blocks" in name}
    assert widths == {bits} and header["codes"]["head.weight"]["bits"] == 8
    rest = {name: value for name, value in model.state_dict().items() if name not in header["codes"]}
    assert all(np.array_equal(values[name], value.numpy()) for name, value in rest.items())
    assert header["images"] == {"size": [8, 8], "channels": 1, "mean": [0.5], "std": [0.25], "crop": None}


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        model, about = prepared(weight="statsq")
        write_packed(tmp_path / name, deployed(model), about)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
