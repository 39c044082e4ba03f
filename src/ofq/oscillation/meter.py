"""The oscillation meter: counts how often integer codes change back and forth."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ofq.oscillation.thresholds import SHARES

_PIECE = 2**17  # weights that a processor counts at a time
_COUNTED = {"direction": torch.int8, "frequency": torch.float32, "reversals": torch.int32}  # beside the codes


class OscillationMeter:
    """Passive meter by the rule of Nagel et al.: an oscillation is a change against the direction of the last one.

    For each weight, with D = sign(previous code - code) and dir the direction of its last change:

        osc = 1[D*dir = -1],   frequency <- m*osc + (1-m)*frequency,   reversals += osc,   dir <- D where D != 0

    The first update only notes the codes. Each quantity is one flat tensor over all names, updated in place, whatever
    the number of layers: on the CPU in pieces that stay in its cache, on a card at once. Nothing is read back to the
    host.

    Args:
        momentum: m of the frequency's exponential mean.

    Raises:
        ValueError: ``momentum`` is not in (0, 1].

    Source: tests/golden/README.md section 7 with threshold 0; Nagel et al. 2022.
    """

    def __init__(self, momentum: float = 0.01) -> None:
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must be above 0 and at most 1, not {momentum}")
        self.momentum = momentum
        self._shapes: dict[str, torch.Size] = {}
        self._next = torch.empty(0, dtype=torch.int8)
        self._flat = _unchanged(self._next)

    @property
    def names(self) -> list[str]:
        """Names of the first update, in its order; none before it."""
        return list(self._shapes)

    @torch.no_grad()
    def update(self, codes: Mapping[str, Tensor]) -> None:
        """Take the codes of one training step.

        Args:
            codes: integer codes by name; the same names and shapes at every call.

        Raises:
            ValueError: there are none, they are no whole numbers by name, or names or shapes differ from those of the
                first update.
        """
        if not isinstance(codes, Mapping):
            raise ValueError(f"the meter takes codes by name, {{name: codes}}, not a {type(codes).__name__}")
        for name, value in codes.items():
            whole = isinstance(value, Tensor) and not (value.is_floating_point() and value.frac().any())
            if not whole or not value.numel():
                raise ValueError(f"the meter's codes of '{name}' should be a tensor of whole numbers")
        shapes = {name: value.shape for name, value in codes.items()}
        if not shapes and not self._shapes:
            raise ValueError("the meter got no codes")
        if self._shapes and shapes != self._shapes:
            wrong = next(name for name in [*shapes, *self._shapes] if shapes.get(name) != self._shapes.get(name))
            raise ValueError(f"the meter's names and shapes are those of its first update; '{wrong}' differs")
        parts = [codes[name].flatten() for name in self._shapes or shapes]  # a vector per name
        if not self._shapes:
            self._shapes, self._flat = shapes, _unchanged(torch.cat(parts))
            return
        if self._flat["codes"].device != parts[0].device:  # those of a file
            self._flat = {name: flat.to(parts[0].device) for name, flat in self._flat.items()}
        old = self._flat["codes"]
        if (self._next.shape, self._next.dtype, self._next.device) != (old.shape, parts[0].dtype, old.device):
            self._next = torch.empty_like(old, dtype=parts[0].dtype)
        torch.cat(parts, out=self._next)
        self._count()
        self._flat["codes"], self._next = self._next, old

    def _count(self) -> None:
        """Compare the codes with the next ones, and update direction, frequency and reversals."""
        codes = self._flat["codes"]
        flat = (codes, self._next, *(self._flat[name] for name in _COUNTED))
        device = codes.device
        size = min(_PIECE, codes.numel()) if device.type == "cpu" else codes.numel()
        booleans = torch.empty(2, size, dtype=torch.bool, device=device)
        numbers = torch.empty(size, device=device)
        # Vectors of at most so many weights.
        for old, new, direction, frequency, reversals in zip(*(part.split(size) for part in flat), strict=True):
            count = old.numel()
            # Compared, not subtracted: 8-bit codes may differ by 255.
            fell, rose = torch.gt(old, new, out=booleans[0, :count]), torch.lt(old, new, out=booleans[1, :count])
            # Booleans seen as int8, without a copy and with the same shape.
            change, turned = fell.view(torch.int8).sub_(rose.view(torch.int8)), rose.view(torch.int8)
            # D*dir is -1 where a weight turned round; clamped and negated it is osc. On the CPU that is faster than
            # boolean kernels.
            torch.mul(change, direction, out=turned).clamp_(max=0).neg_()
            frequency.lerp_(numbers[:count].copy_(turned), self.momentum)
            reversals.add_(turned)
            # Where nothing changed the last direction stays: |D| picks between the two.
            stale = torch.abs(change, out=turned).mul_(direction)
            direction.sub_(stale).add_(change)

    def frequency(self, name: str) -> Tensor:
        """Return the exponential mean of the oscillations per step, in the codes' shape."""
        return self._of("frequency", name)

    def reversals(self, name: str) -> Tensor:
        """Return the oscillations since the first update or :meth:`reset_reversals` (int32), in the codes' shape."""
        return self._of("reversals", name)

    def direction(self, name: str) -> Tensor:
        """Return the sign of the last change, old code minus new (int8, 0 before any), in the codes' shape."""
        return self._of("direction", name)

    def share(self, threshold: float = SHARES["share"]) -> dict[str, float]:
        """Return in percent the weights of each name with a frequency above the threshold; wait for the device once."""
        if not self._shapes:
            return {}
        sizes = [shape.numel() for shape in self._shapes.values()]
        # A vector per name, summed to (names,)
        above = torch.stack([part.sum() for part in (self._flat["frequency"] > threshold).split(sizes)]).tolist()
        return {name: 100.0 * n / size for name, n, size in zip(self._shapes, above, sizes, strict=True)}

    def reset_reversals(self) -> None:
        """Count reversals from here; directions, frequencies and last codes are kept."""
        self._flat["reversals"].zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors ``<quantity>/<name>`` in the codes' shape, so that ``torch.load`` is safe."""
        state = {"momentum": torch.tensor(self.momentum, dtype=torch.float64)}
        for quantity in self._flat:
            for name in self._shapes:
                state[f"{quantity}/{name}"] = self._of(quantity, name).clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue where :meth:`state_dict` was taken; a fresh meter takes its names from it.

        Raises:
            ValueError: the momentum, the names or the shapes differ, or something is missing.
        """
        if "momentum" not in state or state["momentum"].item() != self.momentum:
            raise ValueError(f"the state is not that of a meter with momentum {self.momentum}")
        shapes = {key.removeprefix("codes/"): value.shape for key, value in state.items() if key.startswith("codes/")}
        if self._shapes and shapes != self._shapes:
            raise ValueError("the state's names and shapes are not those of this meter's first update")
        expected = {f"{quantity}/{name}": shape for quantity in self._flat for name, shape in shapes.items()}
        if unknown := state.keys() - expected.keys() - {"momentum"}:
            raise ValueError(f"unknown entry '{min(unknown)}' in the meter's state")
        for key, shape in expected.items():
            if key not in state or state[key].shape != shape:
                raise ValueError(f"the meter's state is incomplete: {key}")
        self._shapes = shapes
        if shapes:
            for quantity in self._flat:
                # A vector over all names.
                self._flat[quantity] = torch.cat([state[f"{quantity}/{name}"].flatten() for name in shapes])
            self._flat["direction"] = self._flat["direction"].to(torch.int8)  # older files have 16 bits

    def _of(self, quantity: str, name: str) -> Tensor:
        """Return the part of a quantity that belongs to a name, as a view in the codes' shape."""
        if name not in self._shapes:
            raise KeyError(f"the meter has no '{name}'; it has {', '.join(self._shapes) or 'seen nothing yet'}")
        sizes = [shape.numel() for shape in self._shapes.values()]
        at = list(self._shapes).index(name)
        # A vector to the codes' shape.
        return self._flat[quantity].narrow(0, sum(sizes[:at]), sizes[at]).view(self._shapes[name])


def _unchanged(codes: Tensor) -> dict[str, Tensor]:
    """Return the flat quantities of codes that have not changed yet."""
    return {"codes": codes} | {name: torch.zeros_like(codes, dtype=dtype) for name, dtype in _COUNTED.items()}
