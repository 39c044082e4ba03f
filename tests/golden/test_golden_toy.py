"""The toy regression against an independent computation, one case a test."""

import pytest
import torch
from cases import Case, cases
from torch import Tensor

from ofq.measure.toy import learned, train
from ofq.quant import StatsQuantizer
from ofq.quant.quantizers.base import Quantizer


def agree(actual: Tensor, expected: Tensor) -> None:
    """Within what storing the numbers as float32 costs."""
    torch.testing.assert_close(actual, expected.double(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("case", cases("toy_regression", r"fixed|lsq_\w+|statsq_\w+"), ids=str)
def test_toy_regression(case: Case) -> None:
    start, target, hyper = (case[name].double() for name in ("w0", "target", "hyper"))
    bits, vector = int(hyper[0]), "vector" in case.prefix
    shape = (1, -1) if vector else (-1, 1)  # independent problems are rows of one weight
    if case.prefix.startswith("statsq"):
        quantizer: Quantizer = StatsQuantizer(bits)
        lr, scale_lr, to_scale = float(hyper[1]), 0.0, 2 ** (bits - 1)  # sigma is as many steps
    else:
        quantizer = learned(hyper[1].repeat(1 if vector else len(start)), bits=bits, axis=None if vector else 0)
        lr, scale_lr, to_scale = float(hyper[2]), float(hyper[3]), 1
    trace = train(quantizer, start.view(shape), target.view(shape), lr=lr, scale_lr=scale_lr)
    codes = trace.codes.flatten(1)
    assert torch.equal(codes, case["code"])
    assert torch.equal((codes.diff(dim=0) != 0).sum(0).int(), case["flips"])
    agree(trace.weights.flatten(1), case["w"])
    agree(trace.values.flatten(1), case["q"])
    scales = trace.scales * to_scale
    agree(scales, case["scale"] if "scale" in case else hyper[1].float().expand_as(scales))
    # Two changes in one direction, on the way to the target, are no reversal: the meter counts at most the changes.
    reversals = (trace.reversals.flatten() * len(codes)).round()
    assert (reversals <= case["flips"]).all() and (reversals >= case["flips"] - 8).all()
