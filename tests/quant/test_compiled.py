"""Compiled block by block: one graph, no break, compiled once for all blocks and steps, and eager's numbers.

A Swin transformer, whose blocks differ, is compiled whole.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ofq.quant import QuantConfig, calibrate, quantize_model
from ofq.quant.weights import record_codes
from tests.quant.small import KINDS, name_of, small_model, small_swin
from tests.quant.test_fused import Run, _moved, _run


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _model(switches: dict[str, Any] | None, images: Tensor, made: nn.Module | None = None) -> Any:
    model: Any = made or small_model(depth=2)
    if switches is not None:
        quantize_model(model, QuantConfig(**switches))
        calibrate(model, [images])
        _moved(model)
        record_codes(model)
    return model.train()


def _step(model: nn.Module, images: Tensor, *, narrow: bool) -> Run:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        return _run(model, images)


@pytest.mark.parametrize(
    ("switches", "narrow"),
    [(None, True), *((switches, True) for switches in KINDS), (KINDS[0], False)],
    ids=lambda value: (
        {None: "fp", True: "bfloat16", False: "float32"}[value] if value in (None, True, False) else name_of(value)
    ),
)
def test_one_graph_serves_all_blocks_and_steps(switches: dict[str, Any] | None, narrow: bool, images: Tensor) -> None:
    model = _model(switches, images)
    eager = _step(model, images, narrow=narrow)
    for block in model.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            compiled = _step(model, images, narrow=narrow)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(compiled, eager)


def test_a_swin_is_one_graph(images: Tensor) -> None:
    model = _model({"weight": "statsq", "qkr": True}, images, small_swin(depths=[2], num_heads=[2]))
    eager = _step(model, images, narrow=False)
    model.compile(fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            compiled = _step(model, images, narrow=False)
    torch.testing.assert_close(compiled, eager)
