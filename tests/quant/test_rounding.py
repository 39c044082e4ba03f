"""The two roundings, against plain differentiable operations and at the exact places where they could go wrong."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ofq.quant import StatsQuantizer
from ofq.quant.quantizers.lsq import _LSQ, Grid, LSQQuantizer
from tests.quant import reference

BITS = st.integers(2, 8)
SEEDS = st.integers(0, 2**31)
SIZES = st.integers(1, 7)
EVERY_GRID = [(bits, signed) for bits in range(2, 9) for signed in (True, False)]


def _levels(bits: int, *, signed: bool) -> tuple[float, float]:
    half = 2.0 ** (bits - 1)
    return (-half, half - 1) if signed else (0.0, 2 * half - 1)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def round_statistical(w: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    return StatsQuantizer(bits).rounded(w)[:2]


def round_learned(
    x: Tensor,
    scale: Tensor,
    low: float | Tensor,
    high: float | Tensor,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    step_shape: tuple[int, ...],
    offset: float = 0.0,
    move_shape: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    quantizer = LSQQuantizer(2)
    quantizer.offset, quantizer.shape = offset, move_shape
    grid = Grid(quantizer, low, high, step_shape, gamma=(high * (x.numel() / scale.numel())) ** -0.5)
    return _LSQ.apply(x, scale, before, after, grid)  # type: ignore[no-any-return]


@given(BITS, SEEDS, SIZES, SIZES)
def test_statsq_agrees_with_the_reference(bits: int, seed: int, rows: int, columns: int) -> None:
    w, g = _random(seed, rows, columns), _random(seed + 1, rows, columns)
    fast, slow = w.clone().requires_grad_(), w.clone().requires_grad_()
    values, codes = round_statistical(fast, bits)
    expected = reference.statsq(slow, bits)
    torch.testing.assert_close(values, expected)
    (values * g).sum().backward()
    (expected * g).sum().backward()
    torch.testing.assert_close(fast.grad, slow.grad)
    assert not codes.requires_grad


@given(BITS, SEEDS)
def test_statsq_has_symmetric_levels_without_zero(bits: int, seed: int) -> None:
    w = _random(seed, 2, 40) * 3
    n = 2 ** (bits - 1)
    sigma = 2 * w.abs().mean(1, keepdim=True)
    levels = (torch.arange(2 * n) - n + 0.5).to(w) / n
    torch.testing.assert_close(levels, -levels.flip(0))
    distance = (round_statistical(w, bits)[0] / sigma).unsqueeze(-1) - levels
    assert distance.abs().amin(-1).max() < 1e-12


@given(BITS, SEEDS)
def test_statsq_is_odd_off_the_thresholds(bits: int, seed: int) -> None:
    w = _random(seed, 3, 11)
    torch.testing.assert_close(round_statistical(-w, bits)[0], -round_statistical(w, bits)[0])


def test_statsq_gradient_is_identity_for_clipped_weights() -> None:
    w = torch.tensor([[0.1, -0.1, 0.1, 50.0, -50.0]], requires_grad=True)
    g = torch.arange(5.0).view(1, 5)
    (round_statistical(w, 2)[0] * g).sum().backward()
    assert torch.equal(w.grad, g)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", range(2, 9))
def test_statsq_row_of_zeros_stays_zero(bits: int) -> None:
    w = torch.zeros(2, 4)
    w[1] = torch.tensor([1.0, -2.0, 0.5, 0.0])
    quantizer = StatsQuantizer(bits)
    assert torch.equal(quantizer(w)[0], torch.zeros(4))
    assert quantizer(w)[1].isfinite().all()
    assert quantizer.position(w).isfinite().all()
    assert quantizer.step(w)[0] == 0


def test_statsq_constant_row_rounds_its_exact_ties_to_even() -> None:
    # w/sigma = +-1/2, so n*v - 1/2 = 1/2 and -3/2 at two bits: ties, which go to 0 and -2.
    values, codes = round_statistical(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), 2)
    assert codes.tolist() == [[0, -2, 0, -2]]
    assert values.tolist() == [[0.5, -1.5, 0.5, -1.5]]


def test_statsq_lower_end_goes_to_the_outermost_code() -> None:
    w = torch.tensor([[-2.0, 0.0]])  # w/sigma = -1: n*v - 1/2 is a tie between -n and -n-1
    assert round_statistical(w, 3)[1].tolist() == [[-4, 0]]
    w = torch.tensor([[2.0, 0.0]])
    assert round_statistical(w, 3)[1].tolist() == [[3, 0]]


@given(
    bits=BITS,
    seed=SEEDS,
    shape=st.tuples(SIZES, SIZES, SIZES),
    axis=st.sampled_from([-1, -2, None]),
    kind=st.sampled_from(["signed", "unsigned", "midrise"]),
    moved=st.booleans(),
)
def test_lsq_agrees_with_the_reference(
    bits: int, seed: int, shape: tuple[int, int, int], axis: int | None, kind: str, moved: bool
) -> None:
    low, high = _levels(bits, signed=kind != "unsigned")
    step_shape = (1,) if axis is None else shape[axis:] if axis == -1 else (shape[-2], 1)
    x, g = _random(seed, *shape) * 2, _random(seed + 1, *shape)
    scale = _random(seed + 2, *step_shape).flatten()  # negative steps too
    width = shape[-1]
    moves = [_random(seed + 3, width) / 3, _random(seed + 4, width)] if moved and kind != "midrise" else []
    offset = 0.5 if kind == "midrise" else 0.0

    fast = [t.clone().requires_grad_() for t in (x, scale, *moves)]
    slow = [t.clone().requires_grad_() for t in (x, scale, *moves)]
    before, after = fast[2:] if moves else (None, None)
    values, codes = round_learned(
        *fast[:2], low, high, step_shape=step_shape, offset=offset, before=before, after=after, move_shape=(width,)
    )
    before, after = slow[2:] if moves else (None, None)
    expected = reference.lsq(*slow[:2], low, high, step_shape=step_shape, offset=offset, before=before, after=after)
    torch.testing.assert_close(values, expected)
    assert low <= codes.min() and codes.max() <= high
    (values * g).sum().backward()
    (expected * g).sum().backward()
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("bits", "signed"), EVERY_GRID)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["numbers", "tensors"])
def test_lsq_clamp_interval_is_closed(bits: int, signed: bool, dtype: torch.dtype, as_tensor: bool) -> None:
    low, high = _levels(bits, signed=signed)
    ends = torch.tensor([low, high], dtype=dtype)
    outside = torch.nextafter(ends, torch.tensor([-torch.inf, torch.inf], dtype=dtype))
    if not low and not as_tensor:
        outside[0] = -torch.finfo(dtype).tiny  # a subnormal number may be flushed to zero and counts as zero
    inside = torch.nextafter(ends, torch.zeros((), dtype=dtype) + 0.5)
    x = torch.cat([ends, outside, inside]).requires_grad_()
    scale = torch.ones(1, dtype=dtype, requires_grad=True)
    bounds = (torch.tensor(low), torch.tensor(high)) if as_tensor else (low, high)
    values, _ = round_learned(x, scale, *bounds, step_shape=(1,))
    values.sum().backward()
    assert x.grad is not None and scale.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0, 1, 1]
    # On and inside an end the step's gradient is code - u = 0 (to rounding), outside it is the end itself.
    torch.testing.assert_close(scale.grad.item(), (low + high) / (high * 6) ** 0.5, rtol=1e-4, atol=1e-4)


def test_lsq_rounds_ties_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_learned(x, torch.ones(1), -8.0, 7.0, step_shape=(1,))[1].tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize("scale", [-0.25, 0.0, 4e-6, 1e-5])
def test_lsq_floor_is_straight_through(scale: float) -> None:
    x = torch.tensor([0.3, -0.2, 4e-6])
    learned = torch.tensor([scale], requires_grad=True)
    values, _ = round_learned(x, learned, -4.0, 3.0, step_shape=(1,))
    values.sum().backward()
    u = torch.tensor([3.0, -4.0, 0 - 4e-6 / 1e-5])  # clamped, clamped, code - u
    torch.testing.assert_close(learned.grad, u.sum().view(1) * (3 * 3) ** -0.5)


def test_lsq_of_a_constant_input_is_finite() -> None:
    for value in (0.0, 1.0, -1e-30):
        x = torch.full((3, 4), value, requires_grad=True)
        scale = torch.zeros(3, requires_grad=True)
        values, _ = round_learned(x, scale, -2.0, 1.0, step_shape=(3, 1))
        values.sum().backward()
        assert values.isfinite().all() and x.grad.isfinite().all() and scale.grad.isfinite().all()  # type: ignore[union-attr]


def test_a_short_after_bias_leaves_the_other_rows_alone() -> None:
    x, scale = torch.zeros(2, 3, 2, 4), torch.ones(1)
    after = torch.ones(4, requires_grad=True)
    values, _ = round_learned(
        x, scale, -2.0, 1.0, step_shape=(1,), before=torch.zeros(8), after=after, move_shape=(2, 4)
    )
    assert (values[:, :, 0] == 1).all() and (values[:, :, 1] == 0).all()
    values.sum().backward()
    assert after.grad is not None and after.grad.tolist() == [6.0] * 4


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(4, requires_grad=True)
    values, _ = round_learned(x, torch.ones(1), -2.0, 1.0, step_shape=(1,))
    (first,) = torch.autograd.grad((values * x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
