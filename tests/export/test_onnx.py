"""ONNX models: in a default session of onnxruntime they give the logits of the deployed model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

import ofq
from ofq.config.params import Params
from ofq.data import batches
from ofq.errors import UserError
from ofq.export.codes import unpacked
from ofq.export.deploy import coded_modules, deployed
from ofq.export.load import open_model
from ofq.export.onnx.run import OnnxModel
from ofq.export.onnx.write import onnx_model, write_onnx
from ofq.export.use import measured
from ofq.export.write import deployed_run
from ofq.export.write import onnx as write_run
from ofq.quant.quantizers.lsq import Grid, LSQQuantizer
from tests.export.small import MODELS, pictures, prepared
from tests.quant.small import KINDS, name_of
from tests.training.trained import STATSQ

NEAR = 1e-5  # of a rounding threshold, in steps
CASES = [
    *(("vit_tiny_patch16_224", switches, bits) for switches in KINDS for bits in (2, 3, 4)),
    *(("vit_tiny_patch16_224", {"weight": weight}, bits) for weight in ("lsq", "rms") for bits in (5, 8)),
    ("vit_tiny_patch16_224", {"weight": "lsq", "qkr": True}, 8),
    *((name, switches, 2) for name in list(MODELS)[1:] for switches in ({"weight": "statsq"}, {"weight": "lsq", "qkr": True})),
]  # fmt: skip


@pytest.mark.parametrize(("name", "switches", "bits"), CASES, ids=lambda value: str(value) if isinstance(value, int | str) else name_of(value))  # fmt: skip
@torch.no_grad()
def test_a_default_session_gives_the_logits_of_the_deployed_model(
    name: str, switches: dict[str, Any], bits: int, tmp_path: Path
) -> None:
    model, about = prepared(name, **switches, weight_bits=bits, input_bits=bits)
    deployed(model)
    write_onnx(tmp_path / "a.onnx", model, about)
    images = pictures(33, seed=9)
    found = ofq.load(tmp_path / "a.onnx")(images)
    torch.testing.assert_close(found, model(images), atol=1e-5, rtol=0)
    assert open_model(tmp_path / "a.onnx").about == about


@pytest.mark.parametrize(("bits", "kind", "types"), [(2, "INT2", {"INT2", "UINT2"}), (3, "INT4", {"INT4", "UINT4"}), (4, "INT4", {"INT4", "UINT4"})])  # fmt: skip
def test_codes_have_the_narrowest_types_and_activations_are_rounded_to_them(
    bits: int, kind: str, types: set[str]
) -> None:
    model, about = prepared(weight="statsq", weight_bits=bits, input_bits=bits)
    made = onnx_model(deployed(model), about)
    assert made.ir_version == 13 and [each.version for each in made.opset_import] == [25]
    constants = {each.name: each for each in made.graph.initializer}
    for name, module in coded_modules(model):
        held = constants[f"{name}.weight.codes"]
        inside = "blocks" in name
        assert held.data_type == (getattr(TensorProto, kind) if inside else TensorProto.INT8)
        codes = unpacked(np.frombuffer(held.raw_data, np.uint8), {2: 2, 3: 4, 4: 4}[bits] if inside else 8, held.dims)
        assert np.array_equal(codes, module.weight.numpy())
    rounded = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounded) == sum(isinstance(each, LSQQuantizer) for each in model.modules())
    told = {TensorProto.DataType.Name(constants[node.input[2]].data_type) for node in rounded}
    assert told == types | {"INT8"}
    assert sum(node.op_type == "Min" for node in made.graph.node) == (len(rounded) - 2 if bits == 3 else 0)


def differing(made: Path, model: nn.Module, image: Tensor) -> tuple[str, float]:
    """The first quantizer that gives other codes in onnxruntime, and how near a threshold what it rounded was."""
    seen: list[tuple[LSQQuantizer, Tensor]] = []
    place = Grid.place

    def watched(grid: Grid, x: Tensor, step: Tensor, before: Tensor | None) -> Tensor:
        u = place(grid, x, step, before)
        seen.append((grid.quantizer, u.clone()))
        return u

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grid, "place", watched)  # through which each way of computing goes
        model(image)
    names = {module: name for name, module in model.named_modules()}
    content = onnx.load(made)
    nodes = [node for node in content.graph.node if node.op_type == "QuantizeLinear"]
    for number, node in enumerate(nodes):
        content.graph.node.append(
            onnx.helper.make_node("DequantizeLinear", [node.output[0], "one"], [f"codes{number}"])
        )
        content.graph.output.append(onnx.helper.make_tensor_value_info(f"codes{number}", TensorProto.FLOAT, None))
    content.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.float32), "one"))
    session = onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([f"codes{number}" for number in range(len(nodes))], {"images": image.numpy()})
    for (quantizer, u), other in zip(seen, found, strict=True):
        low, high = quantizer.levels()
        wrong = torch.from_numpy(other).flatten() != u.clamp(low, high).round().flatten()
        if wrong.any():
            distance = (u.flatten()[wrong] - 0.5) - (u.flatten()[wrong] - 0.5).round()
            return names[quantizer], distance.abs().max().item()
    return "nowhere", 1.0


def check_agreement(made: Path, model: nn.Module, images: Tensor) -> int:
    """Whether nearly all images have the same logits; each exception must come from a value next to a threshold."""
    session = OnnxModel(made)
    apart = [image for image in images.split(1) if not (session(image) - model(image)).abs().max() < 1e-4]
    assert len(apart) <= 0.01 * len(images)
    for image in apart:
        name, distance = differing(made, model, image)
        assert distance < NEAR, name
    return len(apart)


@pytest.mark.parametrize("variant", ["statsq", "statsq-qkr", "lsq"])
@torch.no_grad()
def test_all_test_images_of_digits_agree_or_lie_next_to_a_threshold(variant: str, here: Params, tmp_path: Path) -> None:
    folder = STATSQ.sibling(variant).files.root
    (path,) = write_run(deployed_run(folder), tmp_path)
    data = batches.load("digits")
    model = deployed_run(folder).model
    apart = check_agreement(path, model, torch.cat([batch.images for batch in data.evaluation()]))
    both = [measured(each, data)["top1"] for each in (model, OnnxModel(path))]
    assert abs(both[0] - both[1]) <= 100 * apart / 597 + 1e-9, both
    assert path.stat().st_size < folder.joinpath("model.safetensors").stat().st_size / 2


@torch.no_grad()
def test_an_exception_is_traced_to_the_value_next_to_a_threshold(tmp_path: Path) -> None:
    """What finds the reason of an exception finds one that is made here, and says how far away it was."""
    model, about = prepared(weight="statsq")
    write_onnx(tmp_path / "a.onnx", deployed(model), about)
    image = pictures(1, seed=4)
    assert differing(tmp_path / "a.onnx", model, image)[0] == "nowhere"
    model.blocks[0].mlp.fc1.input_quantizer.scale.mul_(1.3)
    name, distance = differing(tmp_path / "a.onnx", model, image)
    assert name == "blocks.0.mlp.fc1.input_quantizer" and distance > NEAR


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        model, about = prepared(weight="statsq")
        write_onnx(tmp_path / name, deployed(model), about)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_has_no_form_in_onnx_is_refused_by_name() -> None:
    model, about = prepared(weight="statsq")
    model.blocks[0].mlp.act = nn.SiLU()
    with pytest.raises(ValueError, match="the operation silu has no form in ONNX here"):
        onnx_model(deployed(model), about)


def test_without_onnx_and_with_other_files_it_is_one_line(
    here: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(UserError, match="cannot be run"):
        ofq.load(tmp_path / "x.onnx")
    nothing = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["a"], ["b"])], "g", *([onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "ab"))  # fmt: skip
    onnx.save(
        onnx.helper.make_model(nothing, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)]),
        tmp_path / "y.onnx",
    )
    with pytest.raises(UserError, match="is no ONNX model of ofq"):
        ofq.load(tmp_path / "y.onnx")
    run = deployed_run(STATSQ.files.root)
    monkeypatch.delitem(sys.modules, "ofq.export.onnx.run")
    monkeypatch.delitem(sys.modules, "ofq.export.onnx.write")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for use in (lambda: ofq.load(tmp_path / "x.onnx"), lambda: write_run(run, tmp_path)):
        with pytest.raises(UserError, match=r"onnx\w* is not installed here; run: pip install 'ofq\[export\]'"):
            use()
