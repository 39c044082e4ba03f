"""Slow, obvious counterparts of what the package does fast, out of plain differentiable operations."""

import torch
from torch import Tensor


def forward_only(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the forward pass, ``like`` in the backward pass."""
    return like + (value - like).detach()


def statsq(w: Tensor, bits: int) -> Tensor:
    n = 2 ** (bits - 1)
    sigma = 2 * w.detach().abs().mean(1, keepdim=True)
    v = torch.clamp(w.detach() / sigma, -1, 1 - 1e-6)
    return forward_only(sigma * ((n * v - 0.5).round() + 0.5) / n, w)


def lsq(
    x: Tensor,
    scale: Tensor,
    low: float,
    high: float,
    *,
    step_shape: tuple[int, ...],
    offset: float = 0.0,
    before: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    gamma = (high * x.numel() / scale.numel()) ** -0.5
    slowed = forward_only(scale, scale * gamma)
    step = forward_only(slowed.clamp(min=1e-5), slowed).view(step_shape)
    u = (x if before is None else x + before) / step - offset
    inside = (u >= low) & (u <= high)  # both ends
    clamped = torch.where(inside, u, u.detach().clamp(low, high))
    out = (forward_only(clamped.detach().round(), clamped) + offset) * step
    return out if after is None else out + after


class Meter:
    """The oscillation rule for one weight at a time."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.last: int | None = None
        self.direction = 0
        self.frequency = 0.0
        self.reversals = 0

    def update(self, code: int) -> None:
        if self.last is None:
            self.last = code
            return
        change = (self.last > code) - (self.last < code)
        oscillates = change * self.direction == -1
        self.frequency = self.momentum * oscillates + (1 - self.momentum) * self.frequency
        self.reversals += oscillates
        self.direction = change or self.direction
        self.last = code
