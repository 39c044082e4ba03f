"""The fixtures of small quantized models, convolutional networks among them: weights of any shape."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from ofq.quant import QuantConfig, calibrate, quantize_model
from tests.quant.conftest import images, labels
from tests.quant.small import KINDS, name_of, small_cnn, small_model

__all__ = ["images", "labels", "make", "switches"]

CNNS: list[dict[str, Any]] = [
    {"cnn": "mobilenetv2", "weight": "nagel", "weight_axis": "tensor", "input_bits": 32},
    {"cnn": "mobilenetv2", "weight": "lsq", "input_bits": 8},
    {"cnn": "mobilenetv3", "weight": "statsq", "weight_axis": "tensor", "input_bits": 32},
    {"cnn": "resnet", "weight": "statsq", "input_bits": 32},
]


@pytest.fixture(params=[*KINDS, *CNNS], ids=lambda kind: f"{kind.get('cnn', 'vit')}-{name_of(kind)}")
def switches(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def make(switches: dict[str, Any], images: Tensor) -> Callable[[], nn.Module]:
    """Makes the same quantized and calibrated model at every call."""

    def build() -> nn.Module:
        kind = switches.get("cnn")
        config = QuantConfig(**{name: value for name, value in switches.items() if name != "cnn"})
        model = quantize_model(small_cnn(kind) if kind else small_model(), config)
        calibrate(model, [images])
        return model

    return build
