"""The oscillation page: its toy runs, agrees with an independent computation, and says what the toy printed."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ofq.quant import StatsQuantizer
from ofq.quant.quantizers import Quantizer

ROOT = Path(__file__).resolve().parents[2]
RECORDED = np.load(Path(__file__).parent / "toy_regression.npz")


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("toy", ROOT / "docs/toy.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["toy"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "case", ["fixed", "lsq_scalar", "lsq_vector_b3", "lsq_vector_b2", "statsq_vector_b2", "statsq_vector_b3"]
)
def test_the_toy_takes_the_recorded_way_code_by_code(toy: ModuleType, case: str) -> None:
    record = {key.split("/")[1]: torch.from_numpy(RECORDED[key]) for key in RECORDED if key.startswith(f"{case}/")}
    start, target, hyper = (record[key].double() for key in ("w0", "target", "hyper"))
    bits, statistical = int(hyper[0]), case.startswith("statsq")
    shape = (1, -1) if "vector" in case else (-1, 1)  # independent weights are rows of one
    if statistical:
        quantizer: Quantizer = StatsQuantizer(bits)
        lr, scale_lr = float(hyper[1]), 0.0
    else:
        scale = hyper[1].repeat(1 if "vector" in case else len(start))
        quantizer = toy.learned(scale, bits=bits, axis=None if "vector" in case else 0)
        lr, scale_lr = hyper[2:].tolist()
    trace = toy.train(quantizer, start.view(shape), target.view(shape), lr=lr, scale_lr=scale_lr)
    assert torch.equal(trace.codes.flatten(1), record["code"])
    torch.testing.assert_close(trace.weights.flatten(1), record["w"].double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(trace.values.flatten(1), record["q"].double(), rtol=0, atol=1e-6)
    # Two changes in one direction, on the way to the target, are no reversal: the meter counts at most the changes.
    changes = (trace.codes.flatten(1).diff(dim=0) != 0).sum(0)
    reversals = (trace.reversals.flatten() * len(trace.codes)).round()
    assert (reversals <= changes).all() and (reversals >= changes - 8).all()


def test_a_weight_turns_round_as_often_as_its_targets_place_says_at_any_learning_rate(toy: ModuleType) -> None:
    expected = [2 * min(d, 1 - d) for d in toy.POSITIONS]
    for lr in (toy.LR, toy.LR / 10):
        assert toy.law(lr) == pytest.approx(expected, abs=0.005)


def test_the_page_shows_what_the_toy_printed(toy: ModuleType, tmp_path: Path) -> None:
    traces = toy.cases()
    assert toy.table(traces) in (ROOT / "docs/oscillation.md").read_text(), (
        "renew table and picture: python docs/toy.py"
    )
    toy.draw(traces, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs/images/toy.png").is_file()
