"""What only a card can show of the fused functions, of the meter and of annealing: they do there what the CPU does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofq.oscillation import OscillationMeter
from ofq.quant import QuantConfig, block_weights, calibrate, quantize_model
from ofq.quant.kernels import choose
from ofq.quant.kernels.mixed import parts
from ofq.quant.weights import record_codes
from ofq.remedies import ConfidenceGuidedAnnealing
from tests.quant.small import KINDS, name_of, small_model
from tests.quant.test_fused import Run, _moved, _run

BAND = 0.05
"""Difference of gradients of one block in bfloat16, relative to their norm."""


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own() -> None:
    """Forget what was compiled: all blocks have one function, which is compiled some times only."""
    torch._dynamo.reset()


@pytest.fixture(params=KINDS, ids=name_of)
def model(request: pytest.FixtureRequest) -> Any:
    images = torch.rand(32, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    sizes: dict[str, Any] = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "num_heads": 3}
    made = quantize_model(small_model(**sizes), QuantConfig(**request.param))
    calibrate(made, [images])
    return _moved(made).to("cuda")


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(32, 65, 48, generator=torch.Generator().manual_seed(2)).to("cuda")


def _narrow(block: nn.Module, tokens: Tensor) -> Run:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return _run(block, tokens)


def _difference(one: Run, other: Run) -> float:
    """Largest relative difference of an output or a gradient; of those that are more than rounding noise."""
    pairs = [(one[0], other[0]), *((one[1][name], other[1][name]) for name in one[1])]
    largest = max(b.double().norm() for _, b in pairs[1:])
    return max(float((a.double() - b.double()).norm() / (b.double().norm() + 1e-3 * largest)) for a, b in pairs)


def test_codes_of_weights_are_the_same_in_bfloat16_and_compiled(model: Any, tokens: Tensor) -> None:
    record_codes(model)
    block = model.blocks[0]
    weights = [weight for weight in block_weights(model) if weight.block == 0]
    for compiled in (False, True):
        if compiled:
            block.compile(fullgraph=True)
        _narrow(block, tokens)
        for weight in weights:
            assert torch.equal(weight.last_codes(), weight.codes()), (weight.name, compiled)


@pytest.mark.parametrize("narrow", [False, True], ids=["float32", "bfloat16"])
def test_mixed_functions_agree_with_their_parts_and_compiled_ones_with_both(
    model: Any, tokens: Tensor, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, run = model.blocks[0], _narrow if narrow else _run
    with monkeypatch.context() as patch:
        patch.setattr(choose, "choose", lambda *arguments: None)
        apart = run(block, tokens)
    monkeypatch.setattr(choose, "choose", lambda *arguments: choose._MIXED)
    monkeypatch.setattr(parts, "_SMALL", 0)
    pieces = run(block, tokens)
    block.compile(fullgraph=True)
    whole = run(block, tokens)
    limit = BAND if narrow else 1e-2  # a place that falls on a threshold may be rounded the other way
    assert _difference(pieces, apart) < limit and _difference(whole, apart) < limit


@pytest.mark.parametrize("make", [lambda model: ConfidenceGuidedAnnealing(model, 0.1)], ids=["cga"])
def test_stacked_weights_are_annealed_as_each_alone(model: Any, make: Callable[[nn.Module], Any]) -> None:
    remedies = {}
    for device in ("cuda", "cpu"):
        model.to(device)
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        remedies[device] = make(model)
        remedies[device].before_update(0.0)
    assert len(remedies["cuda"]._stacks) < len(remedies["cpu"]._stacks)
    for one, other in zip(remedies["cuda"]._frozen, remedies["cpu"]._frozen, strict=True):
        assert (one.cpu() != other).float().mean() < 1e-3  # sums in another order


def test_the_meter_counts_as_on_the_processor() -> None:
    random = torch.Generator().manual_seed(0)
    codes = [{"a": torch.randint(-2, 2, (400, 500), generator=random).to(torch.int8)} for _ in range(20)]
    states = []
    for device in ("cpu", "cuda"):
        meter = OscillationMeter(0.1)
        for step in codes:
            meter.update({name: code.to(device) for name, code in step.items()})
        states.append({name: value.cpu() for name, value in meter.state_dict().items()})
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-6, atol=0)
