"""The fused functions for autocast and for the compiler, against the quantizers and products that they are made of."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.quant.kernels import choose
from ofq.quant.kernels.mixed.attention import Scores
from tests.quant.small import small_model
from tests.quant.test_fused import _agree, _moved, _run


def _as_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "choose", lambda *arguments: choose._MIXED)


@pytest.mark.parametrize("dead_biases", [False, True])
def test_mixed_functions_agree_with_their_parts(
    switches: dict[str, Any], dead_biases: bool, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantize_model(small_model(), QuantConfig(**switches, dead_biases=dead_biases)).double()
    calibrate(model, [images.double()])
    _moved(model)
    monkeypatch.setattr(choose, "choose", lambda *arguments: None)
    parts = _run(model, images.double())
    _as_mixed(monkeypatch)
    _agree(_run(model, images.double()), parts, rtol=1e-8, atol=1e-9)


def test_probabilities_of_the_backward_pass_are_those_of_the_forward_pass() -> None:
    products, query, key, shift = (
        torch.randn(2, 3, 5, 8),
        torch.rand(5, 1),
        torch.rand(3, 1, 5),
        torch.randn(2, 3, 1, 5),
    )
    scores = Scores(query, key, shift, torch.rand(5, 1), 3.0)
    assert torch.equal(scores.probabilities(products), scores.probabilities_again(products))
