"""Rows of a weight beside the curves of the same rows in other runs."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ofq.oscillation import OscillationMeter
from ofq.quant import QuantConfig, block_weights, calibrate, quantize_model
from tests.quant.small import small_model
from tools.row_widths import excess, rows_of


def rows(width: list[float], reversals: list[float], weights: tuple[int, ...] = (10, 10, 30)) -> pd.DataFrame:
    return pd.DataFrame({"width": width, "reversals": reversals, "weights": weights})


def test_a_row_is_compared_with_its_own_curve_and_left_out_beyond_it() -> None:
    members = [rows([1.0, 1.0, 2.0], [8.0, 4.0, 6.0]), rows([3.0, 2.0, 1.0], [4.0, 2.0, 9.0])]
    own = rows([2.0, 2.1, 1.5], [9.0, 7.0, 7.5])  # curves: 6, outside, 7.5
    beyond, inside = excess(own, members)
    assert beyond == pytest.approx(100 * ((9 * 10 + 7.5 * 30) / (6 * 10 + 7.5 * 30) - 1))
    assert inside == pytest.approx(80.0)


def test_rows_have_their_own_width_and_the_mean_reversals_of_their_weights() -> None:
    model: Any = quantize_model(small_model(), QuantConfig(weight="lsq"))
    calibrate(model, [torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))])
    meter = OscillationMeter()
    codes = {weight.name: torch.zeros(weight.latent().shape, dtype=torch.int8) for weight in block_weights(model)}
    for value in (0, 1, 0):
        for name in codes:
            codes[name] = codes[name].clone()
            codes[name][0] = value  # the first row turns round once
        meter.update(codes)
    found = rows_of(model, meter)
    first = block_weights(model)[0]
    width = model.blocks[0].attn.qkv.weight_quantizer.scale.detach() / first.layer.weight.detach().std(1, correction=0)
    count = len(first.latent())
    np.testing.assert_allclose(found["width"][:count], width[:count], rtol=1e-5)
    assert found["reversals"].sum() == len(codes) and found["reversals"][0] == 1.0
    assert found["weights"][0] == first.latent().shape[1]
