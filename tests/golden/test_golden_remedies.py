"""Dampening, freezing and their schedules against the fixtures, one case a test."""

from typing import Any

import numpy as np
import pytest
import torch
from cases import Case, arrays, bits_of, cases, close
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from ofq.quant import LSQQuantizer, QuantConfig, quantize_model
from ofq.quant.modules.conv import QuantConv2d
from ofq.quant.modules.linear import QuantLinear
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.nagel import NagelQuantizer
from ofq.remedies import Dampening, IterativeFreezing
from ofq.remedies.base import annealed
from ofq.remedies.dampening import dampening_errors
from ofq.remedies.freezing import FrozenCodes


def _freeze(case: Case, codes: Tensor, thresholds: list[float], *, anew: bool) -> None:
    """Run the rule over a walk of codes; the released one may differ only where it chooses a frozen code anew."""
    hyper = [round(value, 6) for value in case["hyper"].tolist()]
    rule = FrozenCodes(hyper[0], average=bool(hyper[-1]), anew=anew)
    released = case["out"]
    held = torch.zeros_like(codes)
    before = 0
    oscillated, frozen_counts = [], []
    for t, (row, threshold) in enumerate(zip(codes, thresholds, strict=True)):
        held[t] = torch.where(rule.frozen["w"], rule.codes["w"], row) if rule.frozen else row
        rule.update({"w": held[t]}, threshold)
        total = int(rule.meter.reversals("w").sum())
        oscillated.append(total - before)
        before = total
        frozen_counts.append(int(rule.frozen["w"].sum()) if rule.frozen else 0)
    # A frozen weight that still changes is one whose frozen code the released rule has chosen anew.
    chosen_anew = (held != released).any(0)
    same = ~chosen_anew
    assert same.all() or not anew
    assert chosen_anew.sum() <= 0.02 * chosen_anew.numel() and case["frozen"].bool()[chosen_anew].all()
    assert torch.equal(held[:, same], released[:, same])
    assert torch.equal(rule.frozen["w"], case["frozen"].bool())
    assert torch.equal(rule.codes["w"][same], case["frozen_x_int"][same])
    assert frozen_counts == case["frozen_count"].tolist()
    close(rule.meter.frequency("w")[same], case["ema_oscillation"][same])
    assert torch.equal(rule.meter.reversals("w")[same], case["total_oscillation"][same])
    assert torch.equal(rule.meter.direction("w")[same], case["prev_switch_dir"][same])
    if "ema_x_int" in case:
        close(rule._means["w"][same], case["ema_x_int"][same])
    if same.all():
        assert oscillated == case["oscillated_count"].tolist()
    else:  # theirs oscillate on
        assert (np.array(oscillated) <= case.numpy("oscillated_count")).all()


@pytest.mark.parametrize("case", cases("oscillation", "freeze_[^/]+", extra="x_int"), ids=str)
def test_freezing(case: Case) -> None:
    codes = case["x_int"]
    for anew in (False, True):
        _freeze(case, codes, [round(case["hyper"][1].item(), 6)] * len(codes), anew=anew)


@pytest.mark.parametrize("case", cases("nagel", r"osc/\w+_(?:ema|last)", extra="x_int|threshold"), ids=str)
def test_freezing_under_a_falling_threshold(case: Case) -> None:
    for anew in (False, True):
        _freeze(case, case["x_int"], case["threshold"].tolist(), anew=anew)


def test_the_threshold_of_the_walk_is_the_schedule_over_its_steps() -> None:
    expected = torch.from_numpy(arrays("nagel")["osc/threshold"])
    remedy = IterativeFreezing(_model(bits=3), len(expected))
    close(torch.tensor([remedy._threshold(t + 1) for t in range(len(expected))]), expected)


def _model(bits: int, shape: tuple[int, ...] = (12, 20), weight: str = "lsq") -> Any:
    """A quantized block whose ``fc1`` has a weight of the given shape."""
    rows, columns = shape
    block = nn.ModuleDict({"attn": Attention(4, num_heads=1), "mlp": Mlp(columns, rows)})
    return quantize_model(block, QuantConfig(weight=weight, weight_bits=bits))


@pytest.mark.parametrize("case", cases("nagel", "osc/through_quantizer"), ids=str)
def test_a_frozen_weight_gets_no_gradient_and_pulls_on_its_step(case: Case) -> None:
    w, delta = case["w"], case["delta"]
    model = _model(3, w.shape, "nagel")
    layer = model.mlp.fc1
    quantizer = layer.weight_quantizer
    quantizer.load_state_dict({"scale": delta, "any_negative": torch.ones(())})
    layer.weight.data = w.clone()
    remedy = IterativeFreezing(model, 100, start=0.0)
    name = "mlp.fc1"
    remedy._layers = {name: layer}
    remedy.rule.update({name: quantizer.codes(layer.weight)}, 1.0)
    remedy.rule.frozen[name] = case["frozen"].bool()
    remedy.rule.codes[name] = case["frozen_x_int"]
    remedy.before_update(0.0)
    remedy.after_update(0.0)  # puts the frozen weights where they belong
    out = quantizer(layer.weight)
    close(out, case["out"])
    layer.weight.grad = None
    (out * case["g"]).sum().backward()
    remedy.before_update(0.0)
    close(layer.weight.grad, case["grad_w"], gradient=True)
    close(quantizer.scale.grad, case["grad_delta"], gradient=True)


@pytest.mark.parametrize("case", cases("nagel", "sched"), ids=str)
def test_schedules(case: Case) -> None:
    total, share, *ends = case["hyper"].tolist()
    steps = round(total)
    model = _model(bits=3)
    weight = Dampening(model, steps, weight=ends[1], start=share)
    threshold = IterativeFreezing(model, steps, first_threshold=ends[2], threshold=ends[3], start=share)
    assert ends[0] == 0
    t = case["t"].tolist()
    close(torch.tensor([weight._weight(step) for step in t]), case["dampening_weight"])
    close(torch.tensor([threshold._threshold(step) for step in t]), case["freezing_threshold"])
    curve = [annealed(step, steps, start=share, first=ends[2], last=ends[3]) for step in t]
    close(torch.tensor(curve), case["freezing_curve"])


@pytest.mark.parametrize("case", cases("losses", "damp/fn", extra="w|wq|lo|hi"), ids=str)
def test_dampening_loss(case: Case) -> None:
    inputs = [case[name].requires_grad_() for name in ("w", "wq", "lo", "hi")]
    loss = dampening_errors(*inputs).sum()
    close(loss, case["loss"])
    for i, gradient in enumerate(torch.autograd.grad(loss, inputs)):
        close(gradient, case[f"grad{i}"], gradient=True, what=f"grad{i}")


@pytest.mark.parametrize("case", cases("losses", "damp/model"), ids=str)
def test_dampening_of_two_layers(case: Case) -> None:
    weights = {name: case[f"{name}/w"].requires_grad_() for name in "ab"}
    steps = {name: case[f"{name}/s"].requires_grad_() for name in "ab"}
    total = torch.zeros(())
    for (name, w), bits in zip(weights.items(), case["bits"].tolist(), strict=True):
        quantizer = LSQQuantizer(bits)
        quantizer.load_state_dict({"scale": steps[name].detach()})
        low, high = quantizer.levels()
        step = steps[name].view(-1, 1)
        total = total + dampening_errors(w, quantizer(w).detach(), low * step, high * step).sum()
    loss = case["weighting"] * total
    close(loss, case["loss"])
    loss.backward()
    for name in "ab":
        assert weights[name].grad is not None and steps[name].grad is not None
        close(weights[name].grad, case[f"{name}/grad_w"], gradient=True)
        close(steps[name].grad, case[f"{name}/grad_s"], gradient=True)


def _layer(w: Tensor, quantizer: Quantizer) -> QuantLinear | QuantConv2d:
    """A layer with a weight, linear or a convolution; of one input channel with groups."""
    if w.ndim == 2:
        layer: Any = QuantLinear(w.shape[1], w.shape[0], weight_quantizer=quantizer)
    else:
        groups = len(w) if w.shape[1] == 1 else 1
        layer = QuantConv2d(w.shape[1] * groups, len(w), w.shape[2:], groups=groups, weight_quantizer=quantizer)
    layer.weight.data = w
    return layer


@pytest.mark.parametrize("case", cases("nagel", r"damp/\w+/per_\w+/b\d", extra="w"), ids=str)
def test_dampening_aggregates(case: Case) -> None:
    _, kind, *_ = case.prefix.split("/")
    w = torch.from_numpy(arrays("nagel")[f"quant/{kind}/w"].copy()) if kind != "conv" else case["w"]
    w.requires_grad_()
    bits, delta = bits_of(case.prefix), case["delta"].requires_grad_()
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1
    step = delta.view(-1, *(1,) * (w.ndim - 1))
    values = ((w / step).round().clamp(low, high) * step).detach()
    errors = dampening_errors(w, values, low * step, high * step)
    aggregates = [errors.sum(), errors.mean(), errors.sum(0).mean()]
    close(torch.stack(aggregates), case["loss"])
    for i, loss in enumerate(aggregates):
        grad_w, grad_delta = torch.autograd.grad(loss, [w, delta], retain_graph=True)
        close(grad_w, case["grad_w"][i], gradient=True)
        close(grad_delta, case["grad_delta"][i], gradient=True)
    axis = 0 if len(delta) > 1 else None
    for quantizer in (
        LSQQuantizer(bits, axis=axis),
        NagelQuantizer(bits, axis=axis),
    ):  # the remedy's aggregate is the last
        flags = {} if isinstance(quantizer, LSQQuantizer) else {"any_negative": torch.ones(())}
        quantizer.load_state_dict({"scale": delta.detach()} | flags)
        layer = _layer(w.detach(), quantizer)
        loss = Dampening._layer_errors(layer).sum(0).mean()
        close(loss, case["loss"][2])
        loss.backward()
        assert layer.weight.grad is not None and quantizer.scale.grad is None
        close(layer.weight.grad, case["grad_w"][2], gradient=True)
