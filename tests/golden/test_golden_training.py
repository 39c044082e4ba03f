"""Annealing, oscillation and losses against the fixtures, one case a test."""

from typing import Any

import pytest
import torch
from cases import Case, bits_of, cases, close
from timm.layers import Attention
from torch import nn

from ofq.oscillation import OscillationMeter
from ofq.quant import QuantConfig, StatsQuantizer, quantize_model
from ofq.remedies import ConfidenceGuidedAnnealing, confidence_mask
from ofq.training.losses import distillation_loss, soft_cross_entropy


@pytest.mark.parametrize("case", cases("cga", r"(?:mask|narrow)/b\d+/r[\d.]+", extra="w|ranges"), ids=str)
def test_confidence_mask(case: Case) -> None:
    r = float(case.prefix.rsplit("/r", 1)[1])
    if case.prefix.startswith("mask"):
        assert (case["ranges"] - r).abs().min() < 1e-6
    mask = confidence_mask(case["w"], bits_of(case.prefix), r)
    assert torch.equal(mask, case[""].bool())


@pytest.mark.parametrize("case", cases("cga", "step"), ids=str)
def test_annealing_step(case: Case) -> None:
    lr, weight_decay, beta1, beta2, eps, bits, r = case["hyper"].tolist()
    w0 = case["w0"]
    # The fixture's matrix takes the place of a value projection, so that the whole remedy is what is tested.
    model = nn.ModuleDict({"attn": Attention(w0.shape[1], num_heads=1)})
    attention: Any = quantize_model(model, QuantConfig(weight_bits=round(bits), qkr=True)).attn
    weight = attention.v.weight = nn.Parameter(w0.clone())
    optimizer = torch.optim.AdamW([weight], lr=lr, weight_decay=weight_decay, betas=(beta1, beta2), eps=eps)
    remedy = ConfidenceGuidedAnnealing(model, r)
    for t in range(len({name.split("/")[0] for name in case.below("") if name.startswith("t")})):
        weight.grad = case[f"t{t}/raw_grad"]
        annealed = f"t{t}/mask" in case
        before = weight.detach().clone()
        mask = confidence_mask(before, round(bits), r)
        if annealed:
            assert torch.equal(mask, case[f"t{t}/mask"].bool())
            remedy.before_update(0.0)
            close(weight.grad, case[f"t{t}/masked_grad"], gradient=True)
        optimizer.step()
        close(weight, case[f"t{t}/w_after_opt"])
        if annealed:
            remedy.after_update(0.0)
            assert torch.equal(weight[mask], before[mask])
        close(weight, case[f"t{t}/w_after"])


@pytest.mark.parametrize("case", cases("cga", r"qk/b\d+/r[\d.]+"), ids=str)
def test_query_key_product_is_plain_statsq_during_annealing(case: Case) -> None:
    w = case["w"].requires_grad_()
    out = StatsQuantizer(bits_of(case.prefix))(w)
    (out * case["g"]).sum().backward()
    assert w.grad is not None
    close(out, case["out"])
    close(w.grad, case["grad_w"], gradient=True)


@pytest.mark.parametrize("case", cases("oscillation", "track", extra="x_int"), ids=str)
def test_oscillation_meter(case: Case) -> None:
    momentum, threshold, _ = case["hyper"].tolist()
    assert threshold == 0
    meter = OscillationMeter(round(momentum, 6))
    before = 0
    codes = case["x_int"]
    counts = []
    for row in codes:
        meter.update({"w": row})
        total = int(meter.reversals("w").sum())
        counts.append(total - before)
        before = total
    assert counts == case["oscillated_count"].tolist()
    assert not case["frozen_count"].any()
    assert torch.equal(case["out"].to(torch.int64), codes.to(torch.int64))  # nothing is frozen: codes pass unchanged
    close(meter.frequency("w"), case["ema_oscillation"])
    assert torch.equal(meter.reversals("w").float(), case["total_oscillation"].float())
    assert torch.equal(meter.direction("w").float(), case["prev_switch_dir"].float())


@pytest.mark.parametrize("case", cases("losses", "kl/[^/]+", extra="dist|teacher"), ids=str)
def test_soft_cross_entropy(case: Case) -> None:
    reduction, _, temperature = case.prefix.removeprefix("kl/").partition("_T")
    logits = [case["dist"].requires_grad_(), case["teacher"].requires_grad_()]
    loss = soft_cross_entropy(
        *logits,
        temperature=float(temperature or 1),
        reduction=reduction,  # type: ignore[arg-type]
    )
    _check_loss(case, loss, logits)


@pytest.mark.parametrize("case", cases("losses", "kd/[^/]+", extra="cls|dist|teacher|label|label_prob"), ids=str)
def test_distillation_loss(case: Case) -> None:
    kind = case.prefix.removeprefix("kd/")
    classes, distillation, teacher = (case[name].requires_grad_() for name in ("cls", "dist", "teacher"))
    second = (case["teacher"] * 0.5).requires_grad_()
    labels = case["label_prob"] if kind.endswith("_prob") else case["label"]
    if kind == "one_head":
        _check_loss(case, distillation_loss(classes, teacher, labels), [classes, teacher])
        return
    teacher_logits = (teacher, second) if kind == "teacher_tuple" else teacher
    logits = [classes, distillation, teacher, second]
    loss = distillation_loss((classes, distillation), teacher_logits, labels)
    _check_loss(case, loss, logits if kind == "teacher_tuple" else logits[:3])


def _check_loss(case: Case, loss: torch.Tensor, logits: list[torch.Tensor]) -> None:
    close(loss, case["loss"])
    gradients = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
    for i, (gradient, logit) in enumerate(zip(gradients, logits, strict=True)):
        expected = case[f"grad{i}"]
        close(torch.zeros_like(logit) if gradient is None else gradient, expected, gradient=True, what=f"grad{i}")
