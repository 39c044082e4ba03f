"""StatsQ, LSQ, QuEST's step and that of Nagel et al. against the fixtures, one case a test."""

import pytest
import torch
from cases import Case, bits_of, cases, close
from torch import nn

from ofq.quant import LSQQuantizer, StatsQuantizer, calibrate
from ofq.quant.quantizers.base import Quantizer
from ofq.quant.quantizers.nagel import NagelQuantizer
from ofq.quant.quantizers.rms import BEST, RMSQuantizer


def _run(quantizer: Quantizer, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    quantizer.zero_grad()
    out = quantizer(x)
    (out * g).sum().backward()
    assert x.grad is not None
    return out, x.grad


@pytest.mark.parametrize("case", cases("statsq", r"(?:2d|3d)/b\d+"), ids=str)
def test_statsq(case: Case) -> None:
    quantizer = StatsQuantizer(bits_of(case.prefix))
    w = case["w"]
    out, grad = _run(quantizer, w, case["g"])
    close(out, case["out"])
    close(grad, case["grad_w"], gradient=True)
    close(quantizer.step(w) * 2 ** (quantizer.bits - 1), case["scale"])


@pytest.mark.parametrize("case", cases("rivals", r"rms/b\d+", extra="[wg]|hyper"), ids=str)
def test_rms(case: Case) -> None:
    bits = bits_of(case.prefix)
    assert BEST[bits] == pytest.approx(case.numpy("hyper")[bits - 2], rel=1e-8)
    for mask in (False, True):
        quantizer = RMSQuantizer(bits, gradient_mask=mask)
        out, grad = _run(quantizer, case["w"], case["g"])
        close(quantizer.step(case["w"]), case["step"])
        close(out, case["out"])
        assert torch.equal(quantizer.codes(case["w"]), case["code"])
        close(grad, case["grad_w_masked" if mask else "grad_w"], gradient=True)
    _, passed = _run(quantizer, case["w"], torch.ones_like(case["w"]))
    assert torch.equal(passed.bool(), case["mask"].bool())


@pytest.mark.parametrize("case", cases("nagel", r"quant/\w+/per_\w+/b\d"), ids=str)
def test_nagel(case: Case) -> None:
    w, bits = case["w"], bits_of(case.prefix)
    axis = 0 if "/per_channel/" in case.prefix else None
    for tag in ("minmax", "mse", "set"):
        for scaled in (False, True):
            fit = "minmax" if tag == "set" else tag
            quantizer = NagelQuantizer(bits, axis=axis, fit=fit, gradient_scale=scaled)  # type: ignore[arg-type]
            calibrate(quantizer, [w])
            assert [float(level) for level in quantizer.levels()] == case["thd"].tolist()
            if tag == "set":
                quantizer.scale = nn.Parameter(case["set/delta"])
            delta = quantizer.scale.detach()
            torch.testing.assert_close(delta, case[f"{tag}/delta"], rtol=1e-6, atol=0)
            if tag == "mse":
                candidate = delta * 100 * float(quantizer.levels()[1]) / (w.abs().max() + 0.5)
                close(candidate, case["mse_candidate"])
            out, grad = _run(quantizer, w, case["g"])
            assert torch.equal(quantizer.codes(w).to(torch.int8), case[f"{tag}/x_int"])
            close(out, case[f"{tag}/out"], what=f"{tag}/out")
            close(grad, case[f"{tag}/grad_w"], gradient=True, what=f"{tag}/grad_w")
            assert quantizer.scale.grad is not None
            expected = case[f"{tag}/grad_delta_scaled" if scaled else f"{tag}/grad_delta"]
            close(quantizer.scale.grad, expected, gradient=True, what=f"{tag}/grad_delta")
            if tag == "set" and len(delta) > 1 and case.prefix.startswith("quant/2d"):  # -0.25 and 1e-9
                assert (delta[:2] < 1e-8).all() and quantizer.scale.grad[:2].tolist() == [0, 0]


def _check_lsq(case: Case, quantizer: LSQQuantizer, x: torch.Tensor) -> None:
    calibrate(quantizer, [x])
    close(quantizer.scale, case["s_init"], what="s_init")
    torch.testing.assert_close(torch.tensor([float(level) for level in quantizer.levels()]), case["thd"])
    for steps in ("init", "set"):
        quantizer.scale = nn.Parameter(case["s_init"] if steps == "init" else case["set/s"])
        out, grad = _run(quantizer, x, case["g"])
        assert quantizer.scale.grad is not None
        close(out, case[f"{steps}/out"], what=f"{steps}/out")
        close(grad, case[f"{steps}/grad_x"], gradient=True, what=f"{steps}/grad_x")
        close(quantizer.scale.grad, case[f"{steps}/grad_s"], gradient=True, what=f"{steps}/grad_s")


@pytest.mark.parametrize("case", cases("lsq_weight", r"per_(?:channel|tensor)/b\d+"), ids=str)
def test_lsq_weight(case: Case) -> None:
    axis = 0 if case.prefix.startswith("per_channel") else None
    _check_lsq(case, LSQQuantizer(bits_of(case.prefix), axis=axis), case["w"])


@pytest.mark.parametrize("case", cases("lsq_act", r".*/b\d+"), ids=str)
def test_lsq_token(case: Case) -> None:
    axis = None if case.prefix.startswith("per_tensor") else -2
    _check_lsq(case, LSQQuantizer(bits_of(case.prefix), signed="/sym/" in case.prefix, axis=axis), case["x"])


@pytest.mark.parametrize("case", cases("lsq_special", r"v/\dd/b\d+"), ids=str)
def test_lsq_channel(case: Case) -> None:
    _check_lsq(case, LSQQuantizer(bits_of(case.prefix), axis=-1), case["x"])


@pytest.mark.parametrize("case", cases("lsq_special", r"img/(?:signed|nonneg|nearzero)/b\d+"), ids=str)
def test_lsq_image(case: Case) -> None:
    quantizer = LSQQuantizer(bits_of(case.prefix), signed="detect", axis=1)
    _check_lsq(case, quantizer, case["x"])
    close(quantizer.negative_seen.view(1), case["signed_flag"])


@pytest.mark.parametrize("case", cases("lsq_special", r"img/sticky", extra="(?:nonneg|signed)/x"), ids=str)
def test_lsq_image_sign_is_sticky(case: Case) -> None:
    largest = case["step0/thd"][1].item()  # unsigned at first: 2^bits - 1
    quantizer = LSQQuantizer(int(largest).bit_length(), signed="detect", axis=1)
    order = ["nonneg", "signed", "nonneg"]
    calibrate(quantizer, [case[f"{order[0]}/x"]])
    close(quantizer.scale, case["s"])
    for step, kind in enumerate(order):
        close(quantizer(case[f"{kind}/x"]), case[f"step{step}/out"], what=f"step{step}")
        close(quantizer.negative_seen.view(1), case[f"step{step}/flag"])
        low, high = quantizer.levels()
        close(torch.tensor([float(low), float(high)]), case[f"step{step}/thd"])
    close(quantizer.scale, case["s"])


@pytest.mark.parametrize("case", cases("lsq_special", r"conv/b\d+"), ids=str)
def test_lsq_convolution_weight(case: Case) -> None:
    _check_lsq(case, LSQQuantizer(bits_of(case.prefix), axis=0), case["x"])


@pytest.mark.parametrize("case", cases("lsq_special", r"head/(?:sym|pos)/b\d+"), ids=str)
def test_lsq_head_input(case: Case) -> None:
    signed = case.prefix.startswith("head/sym")
    _check_lsq(case, LSQQuantizer(bits_of(case.prefix), signed=signed, axis=None), case["x"])
