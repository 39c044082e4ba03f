"""The definitions that training, measurements and report share."""

import numpy as np
import pytest
import torch

from ofq.oscillation.thresholds import lift, threshold_distance


def test_the_distance_to_a_threshold_is_that_to_the_nearest_half_integer() -> None:
    position = torch.tensor([-2.0, -1.5, -0.9, 0.25, 0.5, 0.75, 1.0])
    expected = torch.tensor([0.5, 0.0, 0.4, 0.25, 0.0, 0.25, 0.5])
    torch.testing.assert_close(threshold_distance(position), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_distance_is_that_of_its_formula_to_the_last_bit_of_tensors_and_of_arrays(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(100_000, generator=generator, dtype=dtype) * 3
    edges = torch.arange(-8, 8, 0.5, dtype=dtype)
    tiny = torch.finfo(dtype).tiny
    position = torch.cat([spread, edges, edges + 1e-7, edges - 1e-7, torch.tensor([-tiny, tiny, -0.0], dtype=dtype)])
    expected = (position - position.floor() - 0.5).abs()
    assert torch.equal(threshold_distance(position), expected)
    assert np.array_equal(threshold_distance(position.numpy()), expected.numpy())


def test_what_turns_round_together_is_told_where_there_is_a_chance_and_another_head() -> None:
    heads = [{"same": 0.6, "other": None, "chance": 0.5}]
    assert lift(heads, "same") == pytest.approx(1.2) and lift(heads, "other") is None
    assert lift([{"same": 0.0, "other": 0.0, "chance": 0.0}], "same") is None and lift([], "same") is None
