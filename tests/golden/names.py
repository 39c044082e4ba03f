"""The fixtures' names of parameters, and which parameters of ours hold the same numbers."""

from collections.abc import Callable

import torch
from cases import Case, close
from torch import Tensor, nn

from ofq.quant import calibrate

Select = Callable[[Tensor], Tensor]
Piece = tuple[str, Select]


def _all(vector: Tensor) -> Tensor:
    return vector


def _interleaved(part: int) -> Select:
    """Steps of q or k: ours stand token by token, q before k."""
    return lambda vector: vector.view(-1, 2)[:, part]


def _half(part: int) -> Select:
    return lambda vector: vector.view(2, -1)[part]


LINEAR: dict[str, list[Piece]] = {
    "input_quant_fn.s": [("input_quantizer.scale", _all)],
    "lsqw_fn.s": [("weight_quantizer.scale", _all)],
    "move_b4.bias": [("input_quantizer.before", _all)],
    "move_aft.bias": [("input_quantizer.after", _all)],
}
ATTENTION: dict[str, list[Piece]] = {
    "quan_a_q_fn.s": [("qk_quantizer.scale", _interleaved(0))],
    "quan_a_k_fn.s": [("qk_quantizer.scale", _interleaved(1))],
    "quan_a_v_fn.s": [("v_quantizer.scale", _all)],
    "quan_a_softmax_fn.s": [("probability_quantizer.scale", _all)],
    "quan_a_qkx_fn.s": [("product_quantizer.scale", _all)],
    "move_qkv_b4.bias": [("qk_quantizer.before", _all), ("v_quantizer.before", _all)],
    "move_q_aft.bias": [("qk_quantizer.after", _half(0))],
    "move_k_aft.bias": [("qk_quantizer.after", _half(1))],
    "move_v_b4.bias": [("v_quantizer.before", _all)],
    "move_v_aft.bias": [("v_quantizer.after", _all)],
    "move_qkx_b4.bias": [("product_quantizer.before", _all)],
    "move_qkx_aft.bias": [("product_quantizer.after", _all)],
    **{f"quant_x_4_qkv.{name}": pieces for name, pieces in LINEAR.items()},
}


def _pieces(model: nn.Module, name: str) -> list[tuple[nn.Parameter, Select]]:
    parameters = dict(model.named_parameters())
    if name in parameters:
        return [(parameters[name], _all)]
    table = LINEAR | ATTENTION
    suffix = max((s for s in table if name == s or name.endswith(f".{s}")), key=len)
    prefix = name.removesuffix(suffix)
    return [(parameters[prefix + path], select) for path, select in table[suffix]]


def assign(model: nn.Module, name: str, value: Tensor) -> None:
    """Write the fixture's parameter into ours."""
    pieces = _pieces(model, name)
    parts = [select(parameter.data) for parameter, select in pieces]
    chunks = value.flatten().split([part.numel() for part in parts])
    for part, chunk in zip(parts, chunks, strict=True):
        part.copy_(chunk.view(part.shape))


def _read(model: nn.Module, name: str, shape: torch.Size, get: Callable[[nn.Parameter], Tensor]) -> Tensor:
    return torch.cat([select(get(p)).flatten() for p, select in _pieces(model, name)]).view(shape)


def value(model: nn.Module, name: str, shape: torch.Size) -> Tensor:
    """Our numbers of the fixture's parameter."""
    return _read(model, name, shape, lambda parameter: parameter.data)


def gradient(model: nn.Module, name: str, shape: torch.Size) -> Tensor:
    """Our gradient of the fixture's parameter."""

    def get(parameter: nn.Parameter) -> Tensor:
        assert parameter.grad is not None, name
        return parameter.grad

    return _read(model, name, shape, get)


def is_step(name: str) -> bool:
    """Whether the parameter is a learned step."""
    return name.endswith("_fn.s")


def load(case: Case, model: nn.Module, calibrated: Callable[[], None]) -> None:
    """Give the model the case's parameters, calibrate it in between, and compare the steps with ``s_init``.

    A case without ``s_init`` has the calibrated steps as its parameters.
    """
    names = case.below("param")
    for name in names:
        if not is_step(name):
            assign(model, name, case[f"param/{name}"])
    calibrated()
    branch = "s_init" if case.below("s_init") else "param"
    for name in names:
        if is_step(name):
            expected = case[f"{branch}/{name}"]
            close(value(model, name, expected.shape), expected, what=f"{branch}/{name} by calibration")
            assign(model, name, case[f"param/{name}"])
    assert sum(p.numel() for p in model.parameters()) == sum(case[f"param/{name}"].numel() for name in names)


def check_layer(case: Case, model: nn.Module, around: nn.Module | None = None) -> None:
    """Initial steps, output and every gradient of a layer's case.

    Args:
        case: of the layer.
        model: the layer, whose parameters are those of the case.
        around: what takes x and calls the layer, if that is not the layer itself.
    """
    around = around or model
    load(case, model, lambda: calibrate(around, [case["x"]]))
    x = case["x"].requires_grad_()
    out = around(x)
    close(out, case["out"], what="out")
    (out * case["g"]).sum().backward()
    assert x.grad is not None
    close(x.grad, case["grad_x"], gradient=True, what="grad_x")
    for name in case.below("grad"):
        expected = case[f"grad/{name}"]
        close(gradient(model, name, expected.shape), expected, gradient=True, what=f"grad/{name}")
