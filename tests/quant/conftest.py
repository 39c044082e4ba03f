"""Small quantized models of every kind, images and labels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from ofq.quant import QuantConfig, calibrate, quantize_model
from tests.quant.small import KINDS, name_of, small_model

torch.set_num_threads(1)  # the matrices are tiny: a second thread only waits
settings.register_profile("quick", max_examples=20, deadline=None)
settings.load_profile("quick")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.fixture(params=KINDS, ids=name_of)
def switches(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def make(switches: dict[str, Any], images: Tensor) -> Callable[[], nn.Module]:
    """Makes the same quantized and calibrated model at every call."""

    def build() -> nn.Module:
        model = quantize_model(small_model(), QuantConfig(**switches))
        calibrate(model, [images])
        return model

    return build
